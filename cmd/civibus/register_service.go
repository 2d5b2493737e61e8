package main

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/civibus/civibus/admin"
	"github.com/civibus/civibus/registry/registrypb"
)

func newRegisterService(a *app) *cobra.Command {
	c := &cobra.Command{Use: "service", Short: "Services that bodies offer", Args: cobra.NoArgs}
	var lf listFlags
	var member string
	list := &cobra.Command{
		Use: "list", Short: "List services", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return listAll(c.Context(), a, lf, admin.ListOptions{Member: member}, (*admin.Client).Services,
				[]string{"SERVICE", "TYPE", "TITLE", "STATUS"}, func(s admin.Service) []string { return []string{s.ID, s.Type, s.Title, s.Status} })
		},
	}
	lf.register(list)
	list.Flags().StringVar(&member, "member", "", "only those of this `member`")
	show := &cobra.Command{
		Use: "show SERVICE", Short: "Show a service", Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			s, err := client.Service(c.Context(), args[0])
			if err != nil {
				return err
			}
			if a.json {
				return a.printJSON(s)
			}
			a.pairs("service", s.ID, "type", s.Type, "title", s.Title, "status", s.Status, "notice", s.Notice,
				"endpoints", endpointText(s.Endpoints), "description", s.DescriptionDigest, "in force", periodText(s.Periods))
			return nil
		},
	}
	c.AddCommand(list, show, a.setService("add", "Publish a service", false), a.setService("change", "Change a service's description", true),
		a.serviceStatus("enable", "Enable a service", registrypb.Status_STATUS_ACTIVE),
		a.serviceStatus("disable", "Disable a service with a notice to callers", registrypb.Status_STATUS_SUSPENDED),
		a.serviceStatus("end", "End a service for good", registrypb.Status_STATUS_ENDED))
	return c
}

func (a *app) serviceStatus(use, short string, s registrypb.Status) *cobra.Command {
	var notice string
	c := a.verb(use, short, "SERVICE", func(id string) *registrypb.Tx {
		return &registrypb.Tx{Body: &registrypb.Tx_SetServiceStatus{SetServiceStatus: &registrypb.SetServiceStatus{Id: id, Status: s, Notice: notice}}}
	})
	if s == registrypb.Status_STATUS_SUSPENDED {
		c.Flags().StringVar(&notice, "notice", "", "`text` that callers get")
	}
	return c
}

var serviceTypes = map[string]registrypb.ServiceType{
	"rest": registrypb.ServiceType_SERVICE_TYPE_REST, "openapi": registrypb.ServiceType_SERVICE_TYPE_OPENAPI3, "wsdl": registrypb.ServiceType_SERVICE_TYPE_WSDL,
}

// serviceFlags describe a service.
type serviceFlags struct {
	kind, title, description string
	endpoints                []string
}

func (a *app) setService(use, short string, exists bool) *cobra.Command {
	var f serviceFlags
	c := &cobra.Command{
		Use: use + " SERVICE", Short: short, Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			old, err := client.Service(c.Context(), args[0])
			switch {
			case exists && err != nil:
				return err
			case !exists && err == nil:
				return refusal{"service " + args[0] + " exists already", "\"civibus register service change\" changes it"}
			case err != nil && !admin.IsCode(err, "not_found"):
				return err
			}
			set, err := f.apply(c, args[0], old)
			if err != nil {
				return err
			}
			return a.change(c.Context(), &registrypb.Tx{Body: &registrypb.Tx_SetService{SetService: set}})
		},
	}
	c.Flags().StringVar(&f.kind, "type", "rest", "rest, openapi or wsdl")
	c.Flags().StringVar(&f.title, "title", "", "`title` for people")
	c.Flags().StringArrayVar(&f.endpoints, "endpoint", nil, "`\"METHOD PATH\"` that the service has; again for each")
	c.Flags().StringVar(&f.description, "description", "", "`file` with the description, of which the registry keeps the digest")
	return c
}

// apply lays the flags that were given over what the service was.
func (f *serviceFlags) apply(c *cobra.Command, id string, old admin.Service) (*registrypb.SetService, error) {
	digest, err := hex.DecodeString(old.DescriptionDigest)
	if err != nil {
		return nil, fmt.Errorf("description digest of %s: %w", id, err)
	}
	set := &registrypb.SetService{Id: id, Title: old.Title, DescriptionDigest: digest}
	for _, e := range old.Endpoints {
		set.Endpoints = append(set.Endpoints, &registrypb.Endpoint{Method: e.Method, Path: e.Path})
	}
	kind := f.kind
	if old.ID != "" && !c.Flags().Changed("type") {
		kind = strings.ToLower(old.Type)
	}
	var ok bool
	if set.Type, ok = serviceTypes[kind]; !ok {
		return nil, usageError{fmt.Errorf("service type %q: the rule is rest, openapi or wsdl", kind), ""}
	}
	if c.Flags().Changed("title") {
		set.Title = f.title
	}
	if c.Flags().Changed("endpoint") {
		if set.Endpoints, err = endpoints(f.endpoints); err != nil {
			return nil, err
		}
	}
	if f.description != "" {
		text, err := os.ReadFile(f.description)
		if err != nil {
			return nil, fmt.Errorf("read description: %w", err)
		}
		sum := sha256.Sum256(text)
		set.DescriptionDigest = sum[:]
	}
	return set, nil
}
