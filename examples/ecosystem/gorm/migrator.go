package main

import (
	"fmt"

	"gorm.io/driver/postgres"
	"gorm.io/gorm"
	"gorm.io/gorm/clause"

	"github.com/dsqlgo/dsql/dsqltx"
)

// dialector is gorm's for PostgreSQL, except for how an index is made.
type dialector struct{ *postgres.Dialector }

func (d dialector) Migrator(db *gorm.DB) gorm.Migrator {
	return migrator{d.Dialector.Migrator(db).(postgres.Migrator)}
}

type migrator struct{ postgres.Migrator }

// CreateIndex makes an index in the background, the only way in which DSQL makes one, and
// waits for it. Of what index tags can say it takes names, columns and uniqueness.
func (m migrator) CreateIndex(value any, name string) error {
	return m.RunWithValue(value, func(stmt *gorm.Statement) error {
		index := stmt.Schema.LookIndex(name)
		if index == nil {
			return fmt.Errorf("index %s: %T has none of this name; look at its tags", name, value)
		}
		var job string
		err := m.DB.Raw("CREATE "+index.Class+" INDEX ASYNC ? ON ? ?",
			clause.Column{Name: index.Name}, m.CurrentTable(stmt), m.BuildIndexOptions(index.Fields, stmt)).Scan(&job).Error
		if err != nil {
			return err
		}
		db, err := m.DB.DB()
		if err != nil {
			return err
		}
		return dsqltx.WaitForSQLJob(m.DB.Statement.Context, db, job, nil)
	})
}
