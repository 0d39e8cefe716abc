package dsqldoctor_test

func ExampleDiagnose() {
	ctx := context.Background()
	report := dsql.Diagnose(ctx, server.Config())
	fmt.Println(report.Verdict)

	// A VPC endpoint does not say which cluster is meant.
	report = dsql.Diagnose(ctx, dsql.Config{Host: "vpce-07acca8bd8980c621-nruuwp08.dsql-fnh4.us-east-1.vpce.amazonaws.com"})
	fmt.Println(report.Verdict)
	// Output:
	// ok
	// config
}

func ExampleReport() {
	report := dsql.Diagnose(context.Background(), server.Config())
	text, err := json.Marshal(report) // to compare with a report from another network
	if err != nil {
		log.Fatal(err)
	}
	var read dsql.Report
	fmt.Println(json.Unmarshal(text, &read), read.String() == report.String())
	// Output: <nil> true
}

func ExampleReportTarget() {
	config := server.Config()
	config.User = "app"
	target := dsql.Diagnose(context.Background(), config).Target
	fmt.Println(target.User, target.Action, target.ServerName == server.Endpoint())
	// Output: app DbConnect true
}

func ExampleStep() {
	config := server.Config()
	config.OnStep = func(step dsql.Step) { // as it ends
		if step.Result == dsql.StepFailed {
			fmt.Println(step)
		}
	}
	fmt.Println(dsql.Diagnose(context.Background(), config).Verdict)
	// Output: ok
}

func ExampleStepResult() {
	failed := 0
	for _, step := range dsql.Diagnose(context.Background(), server.Config()).Steps {
		switch step.Result {
		case dsql.StepFailed:
			failed++
		case dsql.StepOK, dsql.StepNote, dsql.StepSkipped:
		}
	}
	fmt.Println(failed, "steps failed")
	// Output: 0 steps failed
}

func ExampleVerdict() {
	switch verdict := dsql.Diagnose(context.Background(), server.Config()).Verdict; verdict {
	case dsql.VerdictOK:
		fmt.Println("all is well")
	case dsql.VerdictInspection, dsql.VerdictPort, dsql.VerdictSilence:
		fmt.Println("the network:", verdict)
	default:
		fmt.Println(verdict)
	}
	// Output: all is well
}

