// Package dsqldoctor finds out why a connection to Amazon Aurora DSQL fails.
//
//	report := dsqldoctor.Diagnose(ctx, config, nil)
//	fmt.Println(report)         // for people
//	fmt.Println(report.Verdict) // for programs: "ok", "access", "inspection", …
//
// [Diagnose] takes the [dsql.Config] of the connection that fails. It tests each part of a
// connection by itself: the configuration, the AWS credentials, the token, DNS, TCP, several ways
// to set up TLS, the login and a query. The [Report] lists the result of each test as a [Step] and
// ends with one [Verdict], the evidence for it, and what to do.
//
// A Report holds no token, signature, key or session token, so it can be sent to whoever runs the
// network. It does name hosts, addresses, the cluster and the database role.
package dsqldoctor
