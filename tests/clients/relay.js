// Prints what Relay gets, by what relay-compiler made of relay/users.js: node relay.js URL TOKEN EXPIRED
import runtime from "relay-runtime";
import { NOBODY } from "./documents.js";
import usersQuery from "./relay/__generated__/usersQuery.graphql.js";
import usersEngagementQuery from "./relay/__generated__/usersEngagementQuery.graphql.js";
import usersPageQuery from "./relay/__generated__/usersPageQuery.graphql.js";
import usersUpsertMutation from "./relay/__generated__/usersUpsertMutation.graphql.js";
import usersList from "./relay/__generated__/users_list.graphql.js";

const {
  Environment,
  Network,
  RecordSource,
  Store,
  commitMutation,
  createOperationDescriptor,
  fetchQuery,
  getSingularSelector,
} = runtime;
const [url, token, expired] = process.argv.slice(2);
const as = (bearer) => {
  const post = async ({ text, name }, variables) => {
    const headers = { "content-type": "application/json", authorization: `Bearer ${bearer}` };
    const body = JSON.stringify({ query: text, operationName: name, variables });
    return (await fetch(url, { method: "POST", headers, body })).json();
  };
  return new Environment({ network: Network.create(post), store: new Store(new RecordSource()) });
};

const environment = as(token);
const ask = (query, variables) => fetchQuery(environment, query, variables).toPromise();
environment.retain(createOperationDescriptor(usersQuery, { count: 2 }));
const listed = getSingularSelector(usersList, await ask(usersQuery, { count: 2 }));
const users = () => environment.lookup(listed).data.users;
while (users().pageInfo.hasNextPage) {
  await ask(usersPageQuery, { count: 2, cursor: users().pageInfo.endCursor });
}
const nodes = users().edges.map(({ node }) => node);
const { node } = await ask(usersEngagementQuery, { id: nodes[0].id, days: 7 });
if (node.__id !== nodes[0].id) throw new Error("another node was fetched again");

const { upsertUsers } = await new Promise((onCompleted, onError) =>
  commitMutation(environment, { mutation: usersUpsertMutation, variables: NOBODY, onCompleted, onError }),
);
const error = await fetchQuery(as(expired), usersQuery, { count: 2 }).toPromise().catch((raised) => raised);

console.log(
  JSON.stringify({
    users: nodes.map(({ userId }) => userId),
    userErrors: upsertUsers.userErrors.map(({ code }) => code),
    expired: error.source.errors[0].extensions.code,
  }),
);
process.exit(); // Relay's store waits for minutes before it lets go of what nobody retains.
