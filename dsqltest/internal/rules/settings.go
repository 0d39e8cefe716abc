package rules

// lockedSettings are those that DSQL refuses to set, or that what is imitated
// here hangs on.
var lockedSettings = []string{
	"client_min_messages", "default_transaction_isolation", "default_transaction_read_only",
	"lock_timeout", "standard_conforming_strings", "transaction_isolation",
}

// StartupSettings are the settings that a startup message may make. At the service most
// others are refused, client_min_messages among them.
var StartupSettings = []string{
	"application_name", "client_encoding", "datestyle", "extra_float_digits",
	"intervalstyle", "search_path", "timezone",
}
