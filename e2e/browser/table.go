package browser

import (
	"context"
	"fmt"

	"metrics-server-prom/e2e/process"
)

// Row is a row of the table of the page at /, as it reads.
type Row struct {
	Name, About, Namespace string
	Link                   string // the query of the view that the row leads to, "" for none
	CPU, Memory            Figures
}

// Figures are what a row has of one resource.
type Figures struct {
	Used, Share, Request, Limit, Peak string // Share is that of what a node has to give
	Line                              bool   // whether there is a line of the last 15 minutes
	High                              bool   // whether the limit is marked
}

// evaluator is a browser's page.
type evaluator interface {
	Eval(expression string, value any) error
}

// Rows are the rows that the page shows now.
func Rows(page evaluator) (rows []Row, err error) {
	err = page.Eval(`Array.from(document.querySelectorAll("#rows tr"), (tr) => {
		const text = (e) => e ? e.textContent.trim() : "";
		const figures = ([used, request, limit, peak]) => ({
			Used: text(used.querySelector("span") || used), Share: text(used.querySelector("small")), Request: text(request),
			Limit: text(limit), Peak: text(peak.querySelector("span") || peak), Line: !!peak.querySelector("path[d^=M]"),
			High: limit.classList.contains("high"),
		});
		const [name, namespace, ...rest] = tr.cells;
		const link = name.querySelector("a");
		return {
			Name: text(link || name.firstChild), Link: link?.search ?? "", About: text(name.querySelector("small")),
			Namespace: text(namespace),
			CPU: figures(rest.slice(0, 4)), Memory: figures(rest.slice(4)),
		};
	})`, &rows)
	return rows, err
}

// AwaitRows returns the rows once ready says nil of them.
func AwaitRows(ctx context.Context, page evaluator, ready func([]Row) error) (rows []Row, err error) {
	return rows, process.Await(ctx, 50*1e6, func(context.Context) (err error) {
		if rows, err = Rows(page); err != nil {
			return err
		}
		if err := ready(rows); err != nil {
			return fmt.Errorf("%w\nthe rows are %+v", err, rows)
		}
		return nil
	})
}
