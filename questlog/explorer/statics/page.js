ReactDOM.render(
  React.createElement(GraphiQL, {
    fetcher: GraphiQL.createFetcher({ url: "/graphql" }),
    defaultQuery: "# A token of `questlog token` goes below, under Headers:\n# {\"Authorization\": \"Bearer …\"}\n{ viewer { role } }\n",
    shouldPersistHeaders: false,
  }),
  document.getElementById("explorer"),
);
