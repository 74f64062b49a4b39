"""The rules that a document is validated by: the specification's, two of them in our words."""

from graphql import (
    ASTValidationRule,
    GraphQLError,
    NoSchemaIntrospectionCustomRule,
    ScalarLeafsRule,
    ValuesOfCorrectTypeRule,
    specified_rules,
)

from schema.coercion import LiteralsOfCorrectTypeRule


class LeavesRule(ScalarLeafsRule):
    """The specification's rule, which by itself tells whoever asks what they may have meant."""

    def report_error(self, error: GraphQLError) -> None:
        """Report it, without a suggestion where there is to be none."""
        if self.context.hide_suggestions:
            error = GraphQLError(error.message.partition(" Did you mean")[0], error.nodes)
        super().report_error(error)


Rules = tuple[type[ASTValidationRule], ...]
OURS: dict[type[ASTValidationRule], type[ASTValidationRule]] = {
    ScalarLeafsRule: LeavesRule,
    ValuesOfCorrectTypeRule: LiteralsOfCorrectTypeRule,
}
RULES: Rules = tuple(OURS.get(rule, rule) for rule in specified_rules)
RULES_WITHOUT_INTROSPECTION: Rules = (NoSchemaIntrospectionCustomRule, *RULES)
"""For whoever may not look into the schema, and gets no suggestions either."""
