// Prints what urql gets: node urql.js URL TOKEN EXPIRED
import { Client, fetchExchange } from "@urql/core";
import { NOBODY, UPSERT, USERS } from "./documents.js";

const [url, token, expired] = process.argv.slice(2);
const as = (bearer) =>
  new Client({
    url,
    preferGetMethod: false,
    exchanges: [fetchExchange],
    fetchOptions: { headers: { authorization: `Bearer ${bearer}` } },
  });

const client = as(token);
const users = [];
let page = { hasNextPage: true };
while (page.hasNextPage) {
  const { data, error } = await client.query(USERS, { first: 2, after: page.endCursor });
  if (error) throw error;
  users.push(...data.users.edges.map(({ node }) => node.userId));
  page = data.users.pageInfo;
}
const upsert = await client.mutation(UPSERT, NOBODY);
const { error } = await as(expired).query(USERS, { first: 2 });

console.log(
  JSON.stringify({
    users,
    userErrors: upsert.data.upsertUsers.userErrors.map(({ code }) => code),
    expired: error.graphQLErrors[0].extensions.code,
  }),
);
