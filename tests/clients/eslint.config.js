// The printed schema, by the rules that are recommended for schemas, and by Relay's.
import graphql from "@graphql-eslint/eslint-plugin";

const exceptions = {
  // It is the specification's own directive, printed for tools that do not know it yet.
  "@graphql-eslint/require-description": [
    "error",
    {
      types: true,
      DirectiveDefinition: true,
      rootField: true,
      FieldDefinition: true,
      InputValueDefinition: true,
      EnumValueDefinition: true,
      ignoredSelectors: ["[type=DirectiveDefinition][name.value=oneOf]"],
    },
  ],
  // The contract names User.userId: the platform's own id, which is not the global one.
  "@graphql-eslint/no-typename-prefix": "off",
  // The contract has connections of AtRiskStudent and PageView, which are no nodes, and lists that are no connections,
  // such as a chart's columns and the `nodes` beside `edges`.
  "@graphql-eslint/relay-edge-types": [
    "error",
    { withEdgeSuffix: true, shouldImplementNode: false, listTypeCanWrapOnlyEdgeType: false },
  ],
  // The contract gives an id to what implements Node alone. These are values: figures, pages of lists, answers to
  // mutations, and people who are named without being shown.
  "@graphql-eslint/strict-id-in-types": [
    "error",
    {
      exceptions: {
        suffixes: ["Connection", "Edge", "Payload", "Error"],
        types: [
          "AtRiskStudent",
          "BadgePopularity",
          "CategoryCount",
          "Consent",
          "DailyActivity",
          "Engagement",
          "ErrorSummary",
          "ErrorTypeCount",
          "IntakeStatus",
          "LearningJourney",
          "PageInfo",
          "PageView",
          "PageViewDays",
          "Person",
          "PillarXp",
          "QuestCompletion",
          "QuestPopularity",
          "RetentionRun",
          "RetentionStatus",
          "RiskAssessment",
          "RiskFactor",
          "Viewer",
          "Watcher",
        ],
      },
    },
  ],
};

export default [
  {
    files: ["**/*.graphql"],
    plugins: { "@graphql-eslint": graphql },
    languageOptions: {
      parser: graphql.parser,
      parserOptions: { graphQLConfig: { schema: "schema/schema.graphql" } },
    },
    rules: {
      ...graphql.configs["flat/schema-recommended"].rules,
      ...graphql.configs["flat/schema-relay"].rules,
      ...exceptions,
    },
  },
];
