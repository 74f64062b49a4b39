// Prints what Apollo Client gets: node apollo.js URL TOKEN EXPIRED
import { ApolloClient, HttpLink, InMemoryCache, gql } from "@apollo/client/core";
import { relayStylePagination } from "@apollo/client/utilities";
import { NOBODY, UPSERT, USERS } from "./documents.js";

const [url, token, expired] = process.argv.slice(2);
const as = (bearer) =>
  new ApolloClient({
    link: new HttpLink({ uri: url, headers: { authorization: `Bearer ${bearer}` } }),
    cache: new InMemoryCache({ typePolicies: { Query: { fields: { users: relayStylePagination() } } } }),
  });

const client = as(token);
const users = client.watchQuery({ query: gql(USERS), variables: { first: 2 } });
const kept = users.subscribe(() => {});
let page = (await users.refetch()).data.users.pageInfo;
while (page.hasNextPage) {
  page = (await users.fetchMore({ variables: { after: page.endCursor } })).data.users.pageInfo;
}
const { edges } = client.readQuery({ query: gql(USERS), variables: { first: 2 } }).users;
kept.unsubscribe();

const upsert = await client.mutate({ mutation: gql(UPSERT), variables: NOBODY });
const error = await as(expired).query({ query: gql(USERS), variables: { first: 2 } }).catch((raised) => raised);
const [{ extensions }] = error.errors ?? JSON.parse(error.bodyText).errors;

console.log(
  JSON.stringify({
    users: edges.map(({ node }) => node.userId),
    userErrors: upsert.data.upsertUsers.userErrors.map(({ code }) => code),
    expired: extensions.code,
  }),
);
