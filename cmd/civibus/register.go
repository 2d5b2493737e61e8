package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/civibus/civibus/admin"
	"github.com/civibus/civibus/registry/registrypb"
)

func newRegister(a *app) *cobra.Command {
	c := &cobra.Command{
		Use:   "register",
		Short: "List and change what the bodies of the instance agree on",
		Long: `List and change the registry: members, subsystems, services, access rights,
groups, keys, delegations, hosts, nodes and voting powers. Changes are signed by the running node with the body's admin
key and are in force when the command returns. Identifiers are written
INSTANCE/CLASS/MEMBER[/SUBSYSTEM[/SERVICE[/VERSION]]], each part percent-encoded.`,
		Args: cobra.NoArgs,
	}
	c.AddCommand(newRegisterMember(a), newRegisterSubsystem(a), newRegisterService(a), newRegisterTopic(a), newRegisterRight(a), newRegisterGroup(a), newRegisterKey(a), newRegisterDelegation(a),
		newRegisterNode(a), newRegisterPower(a), newRegisterHost(a), newRegisterEvidenceType(a))
	return c
}

// change submits a change and prints what came of it.
func (a *app) change(ctx context.Context, tx *registrypb.Tx) error {
	client, err := a.client()
	if err != nil {
		return err
	}
	out, err := client.Change(ctx, tx)
	if err != nil {
		return err
	}
	return a.printChange(out)
}

func (a *app) printChange(c admin.Change) error {
	if a.json {
		return a.printJSON(c)
	}
	_, err := fmt.Fprintf(a.out, "done at height %d: %s\n", c.Height, c.ID)
	return err
}

// listFlags are the flags of every list command.
type listFlags struct {
	after string
	limit int
}

func (f *listFlags) register(c *cobra.Command) {
	c.Flags().StringVar(&f.after, "after", "", "continue after this `item` (the \"next\" of the page before)")
	c.Flags().IntVar(&f.limit, "limit", 0, "stop after `N` items and name the next (default: all)")
}

// listAll prints one page, or all pages when no limit is given.
func listAll[T any](ctx context.Context, a *app, f listFlags, o admin.ListOptions, fetch func(*admin.Client, context.Context, admin.ListOptions) (admin.Page[T], error), head []string, row func(T) []string) error {
	client, err := a.client()
	if err != nil {
		return err
	}
	o.After, o.Limit = f.after, f.limit
	page, err := fetch(client, ctx, o)
	if err != nil {
		return err
	}
	for f.limit == 0 && page.Next != "" {
		o.After = page.Next
		more, err := fetch(client, ctx, o)
		if err != nil {
			return err
		}
		page.Items, page.Next = append(page.Items, more.Items...), more.Next
	}
	if a.json {
		return a.printJSON(page)
	}
	t := table{head: head}
	for _, item := range page.Items {
		t.add(row(item)...)
	}
	t.write(a.out)
	if page.Next != "" {
		fmt.Fprintf(a.err, "more: continue with --after '%s'\n", page.Next)
	}
	return nil
}

// verb makes a command on one identifier that submits one change.
func (a *app) verb(use, short, what string, tx func(id string) *registrypb.Tx) *cobra.Command {
	return &cobra.Command{
		Use:   use + " " + what,
		Short: short,
		Args:  cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			return a.change(c.Context(), tx(args[0]))
		},
	}
}

func gateways(flags []string) ([]*registrypb.Gateway, error) {
	var out []*registrypb.Gateway
	for _, f := range flags {
		code, address, ok := strings.Cut(f, "=")
		if !ok || code == "" || address == "" {
			return nil, usageError{fmt.Errorf("gateway %q: the rule is CODE=host:port", f), "e.g. --gateway gateway-1=bus.example.org:5500"}
		}
		out = append(out, &registrypb.Gateway{Code: code, Address: address})
	}
	return out, nil
}

func endpoints(flags []string) ([]*registrypb.Endpoint, error) {
	var out []*registrypb.Endpoint
	for _, f := range flags {
		method, path, ok := strings.Cut(f, " ")
		if !ok || method == "" || path == "" {
			return nil, usageError{fmt.Errorf("endpoint %q: the rule is \"METHOD PATH\"", f), "e.g. --endpoint 'GET /persons/*' (* is any run of characters but /, ** any run)"}
		}
		out = append(out, &registrypb.Endpoint{Method: method, Path: path})
	}
	return out, nil
}

func endpointText(es []admin.Endpoint) string {
	if len(es) == 0 {
		return "all"
	}
	parts := make([]string, len(es))
	for i, e := range es {
		parts[i] = e.Method + " " + e.Path
	}
	return strings.Join(parts, ", ")
}

func periodText(ps []admin.Period) string {
	parts := make([]string, len(ps))
	for i, p := range ps {
		to := "on"
		if p.To > 0 {
			to = "to " + strconv.FormatUint(p.To, 10)
		}
		parts[i] = fmt.Sprintf("%d %s", p.From, to)
	}
	return strings.Join(parts, ", ")
}
