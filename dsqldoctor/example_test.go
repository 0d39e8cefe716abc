package dsqldoctor_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log"

	"github.com/dsqlgo/dsql"
	"github.com/dsqlgo/dsql/dsqldoctor"
)

func ExampleDiagnose() {
	ctx := context.Background()
	report := dsqldoctor.Diagnose(ctx, server.Config(), nil)
	fmt.Println(report.Verdict)

	// A VPC endpoint does not say which cluster is meant.
	report = dsqldoctor.Diagnose(ctx, dsql.Config{Host: "vpce-07acca8bd8980c621-nruuwp08.dsql-fnh4.us-east-1.vpce.amazonaws.com"}, nil)
	fmt.Println(report.Verdict)
	// Output:
	// ok
	// config
}

func ExampleReport() {
	report := dsqldoctor.Diagnose(context.Background(), server.Config(), nil)
	text, err := json.Marshal(report) // to compare with a report from another network
	if err != nil {
		log.Fatal(err)
	}
	var read dsqldoctor.Report
	fmt.Println(json.Unmarshal(text, &read), read.String() == report.String())
	// Output: <nil> true
}

func ExampleReportTarget() {
	config := server.Config()
	config.User = "app"
	target := dsqldoctor.Diagnose(context.Background(), config, nil).Target
	fmt.Println(target.User, target.Action, target.ServerName == server.Endpoint())
	// Output: app DbConnect true
}

func ExampleStep() {
	config := server.Config()
	printFailed := func(step dsqldoctor.Step) {
		if step.Result == dsqldoctor.StepFailed {
			fmt.Println(step)
		}
	}
	fmt.Println(dsqldoctor.Diagnose(context.Background(), config, printFailed).Verdict)
	// Output: ok
}

func ExampleStepResult() {
	failed := 0
	for _, step := range dsqldoctor.Diagnose(context.Background(), server.Config(), nil).Steps {
		switch step.Result {
		case dsqldoctor.StepFailed:
			failed++
		case dsqldoctor.StepOK, dsqldoctor.StepNote, dsqldoctor.StepSkipped:
		}
	}
	fmt.Println(failed, "steps failed")
	// Output: 0 steps failed
}

func ExampleVerdict() {
	switch verdict := dsqldoctor.Diagnose(context.Background(), server.Config(), nil).Verdict; verdict {
	case dsqldoctor.VerdictOK:
		fmt.Println("all is well")
	case dsqldoctor.VerdictInspection, dsqldoctor.VerdictPort, dsqldoctor.VerdictSilence:
		fmt.Println("the network:", verdict)
	default:
		fmt.Println(verdict)
	}
	// Output: all is well
}
