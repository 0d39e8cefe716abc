package rules

// iam handles AWS IAM GRANT role TO 'arn' and AWS IAM REVOKE role FROM 'arn' (AWS guide, "Using
// database roles and IAM authentication"). sys.iam_pg_role_mappings shows what they did.
func (p *parser) iam(ts tokens) (st Statement) {
	st.Kind = DDL
	grant := ts.is(2, "grant") && ts.is(4, "to")
	revoke := ts.is(2, "revoke") && ts.is(4, "from")
	if !grant && !revoke || ts.name(3) == "" || len(ts) != 6 || ts[5].class != text {
		return st // PostgreSQL finds its syntax at fault
	}
	verb := ts[2].text
	arn := p.sql[ts[5].start:ts[5].end]
	st.Rewritten = "CALL sys.iam_" + verb + "(" + QuoteLiteral(ts.name(3)) + ", " + arn + ")"
	st.Tag = map[string]string{"grant": "AWS IAM GRANT", "revoke": "AWS IAM REVOKE"}[verb]
	return st
}
