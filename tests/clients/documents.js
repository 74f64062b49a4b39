// What each client asks: a list page by page, and a mutation that nobody can be taken from.
export const USERS = `
  query Users($first: Int!, $after: String) {
    users(first: $first, after: $after) {
      edges { cursor node { id userId } }
      pageInfo { hasNextPage endCursor hasPreviousPage startCursor }
    }
  }
`;
export const UPSERT = `
  mutation Upsert($input: UpsertUsersInput!) {
    upsertUsers(input: $input) { users { userId } userErrors { field code message } }
  }
`;
export const NOBODY = { input: { users: [{ userId: "", role: "STUDENT" }] } };
