package dsqldoctor

import (
	"fmt"
	"strings"
	"time"

	"github.com/dsqlgo/dsql/internal/refusal"
)

// concludeServer decides what the server's answers in verified TLS mean. It returns nil if they are
// those of a login and a query that work, or if there are none.
func (f *findings) concludeServer() *conclusion {
	last := f.login
	switch {
	case !last.tried():
		last = f.startup
	case last.ok() && f.query.tried():
		last = f.query
	}
	if !last.failed() {
		return nil
	}
	c := &conclusion{evidence: []string{last.description()}}
	if last.outcome == outcomeRefused {
		f.refusalProblem(c, last)
	} else {
		noAnswerProblem(c, last)
	}
	return c
}

// refusalProblem decides what a refusal means.
func (f *findings) refusalProblem(c *conclusion, refused finding) {
	if f.otherName.ok() {
		f.otherNameProblem(c, refused)
		return
	}
	switch refused.kind {
	case refusal.InvalidSNI:
		c.verdict = VerdictSNI
		c.summary = fmt.Sprintf("The server knows no cluster by the server name %s.", f.target.ServerName)
		c.evidence = append(c.evidence, fmt.Sprintf("dialled %s, sent %s as SNI", f.target.DialAddress, f.target.ServerName))
		c.remedies = f.nameRemedies()
	case refusal.ClusterWaking:
		c.verdict = VerdictWaking
		c.summary = "The cluster was idle and is waking up."
		c.remedies = []string{"Try again in some seconds. Connect, NewPool and OpenDB do so themselves until Config.ConnectTimeout (30 s by default) or the context ends."}
	case refusal.Unavailable:
		c.verdict = VerdictUnavailable
		c.summary = "The service is unavailable for the moment."
		c.remedies = []string{
			"Try again in some seconds. Connect, NewPool and OpenDB do so themselves until Config.ConnectTimeout (30 s by default) or the context ends.",
			"If it lasts, see the AWS Health Dashboard for Aurora DSQL in " + f.target.Region + ". " + supportRemedy(refused),
		}
	case refusal.TooManyConnections:
		c.verdict = VerdictQuota
		c.summary = "The cluster has as many connections as its quota allows."
		c.remedies = []string{
			"Close idle connections, and use smaller pools: pool_max_conns in Config.Params, times the number of processes.",
			"Have the quota raised (Service Quotas, Amazon Aurora DSQL): the default is 10,000 connections for a cluster.",
		}
	case refusal.RateExceeded:
		c.verdict = VerdictQuota
		c.summary = "More connections are opened each second than the cluster's quota allows."
		c.remedies = []string{
			"Keep connections in a pool instead of opening one for each request, and do not start all processes at once.",
			"Config.ConnectRate and ConnectBurst limit one process: give each its share of 100 connections a second after a burst of 1,000, or have the quota raised (Service Quotas, Amazon Aurora DSQL).",
		}
	case refusal.TokenExpired:
		c.verdict = VerdictClock
		c.summary = "The server calls a fresh token expired: this host's clock is wrong" + refusal.ClockSkew(refused.hint, time.Now()) + "."
		c.remedies = clockRemedies
	case refusal.WrongAction:
		c.verdict = VerdictTokenKind
		c.summary = fmt.Sprintf("The token is of the wrong kind: the role %q does not go with the action %s.", f.target.User, f.target.Action)
		c.remedies = []string{
			`The role admin, in lower case, needs a token for DbConnectAdmin, every other role one for DbConnect. This library signs the right kind for Config.User: leave it empty, or set "admin", for the administrator.`,
		}
	case refusal.AccessDenied:
		c.verdict = VerdictAccess
		c.summary = fmt.Sprintf("The server found the cluster, and does not let this identity use the role %q.", f.target.User)
		c.evidence = append(c.evidence, "the token was signed with credentials "+f.signer)
		c.remedies = f.accessRemedies(refused.hint)
	default:
		otherRefusal(c, refused)
	}
}

func otherRefusal(c *conclusion, refused finding) {
	if refused.sqlState == "0A000" && strings.Contains(refused.description(), "configuration parameter") {
		c.verdict = VerdictConfig
		c.summary = "The configuration cannot work: Params holds a setting that DSQL does not allow."
		c.remedies = []string{"Remove the setting that the message names from Config.Params."}
		return
	}
	c.verdict = VerdictRefused
	c.summary = fmt.Sprintf("The server refuses the %s.", refused.stage())
	c.remedies = []string{"Read the message. If the Config is not the cause, try again.", supportRemedy(refused)}
}

// otherNameProblem is for a server that refuses the usual name and accepts the cluster's other
// name.
func (f *findings) otherNameProblem(c *conclusion, refused finding) {
	c.verdict = VerdictSNI
	if refused.kind == refusal.AccessDenied {
		c.verdict = VerdictAccess
	}
	c.summary = fmt.Sprintf("The server refuses the name %s, and accepts the cluster's %s, %s.", f.target.ServerName, f.otherName.kind, f.otherName.name)
	c.evidence = append(c.evidence, fmt.Sprintf("the same login with %s as SNI and token host works", f.otherName.name))
	c.remedies = []string{
		fmt.Sprintf("Set Config.ServerName: %q (server_name in a connection string). It becomes the SNI and the token host; the dialled address stays the same.", f.otherName.name),
	}
}

// noAnswerProblem is for a server that is trusted, but does not answer as DSQL does.
func noAnswerProblem(c *conclusion, last finding) {
	c.remedies = []string{"Try again: one server behind the endpoint may be at fault.", supportRemedy(last)}
	switch last.outcome {
	case outcomeNotDSQL:
		c.verdict = VerdictOtherServer
		c.summary = "The server's certificate is trusted, but the server does not behave as DSQL does."
		c.remedies = []string{"Check Host, Port and DialAddress, and whose certificate it is that was accepted."}
	case outcomeTimeout:
		c.verdict = VerdictSilence
		c.summary = fmt.Sprintf("TLS works, but the server does not answer the %s.", last.stage())
	default:
		c.verdict = VerdictRefused
		c.summary = fmt.Sprintf("TLS works, but the %s fails.", last.stage())
	}
}
