// What relay-compiler compiles: a connection that is paged and refetched, and a mutation. The tag is babel's to replace.
graphql`
  query usersQuery($count: Int!) {
    ...users_list @arguments(count: $count)
  }
`;
graphql`
  fragment users_list on Query
  @refetchable(queryName: "usersPageQuery")
  @argumentDefinitions(count: { type: "Int", defaultValue: 2 }, cursor: { type: "String" }) {
    users(first: $count, after: $cursor) @connection(key: "users_list_users") {
      edges {
        node {
          id
          userId
          ...users_engagement
        }
      }
    }
  }
`;
graphql`
  fragment users_engagement on User
  @refetchable(queryName: "usersEngagementQuery")
  @argumentDefinitions(days: { type: "Int", defaultValue: 30 }) {
    engagement(days: $days) {
      activeDays
    }
  }
`;
graphql`
  mutation usersUpsertMutation($input: UpsertUsersInput!) {
    upsertUsers(input: $input) {
      users {
        userId
      }
      userErrors {
        field
        code
      }
    }
  }
`;
