package admin

import (
	"net/http"

	"github.com/civibus/civibus"
)

// list reads one page of a registry list. keep filters; a page of a filtered
// list may have fewer items than its limit and still have a next.
func list[T, J any](r *http.Request, height uint64, fetch func(after string, limit int) ([]T, string), convert func(T) J, keep func(T) bool) (any, error) {
	limit, err := limitOf(r)
	if err != nil {
		return nil, err
	}
	page := Page[J]{Items: []J{}, Next: r.URL.Query().Get("after"), Height: height}
	for scanned := 0; scanned < maxScan; {
		want := limit - len(page.Items)
		items, next := fetch(page.Next, want)
		scanned += len(items)
		for _, item := range items {
			if keep == nil || keep(item) {
				page.Items = append(page.Items, convert(item))
			}
		}
		page.Next = next
		if next == "" || len(page.Items) >= limit {
			break
		}
	}
	return page, nil
}

func (s *Server) members(r *http.Request) (any, error) {
	v := s.backend.View()
	return list(r, v.Height(), v.Members, memberOf, nil)
}

func (s *Server) member(r *http.Request) (any, error) {
	raw := rawID(r, "/v1/members/")
	id, err := civibus.ParseMemberID(raw)
	if err != nil {
		return nil, badID(err)
	}
	m, ok := s.backend.View().Member(id)
	if !ok {
		return nil, notFound("member", raw)
	}
	return memberOf(m), nil
}

func (s *Server) subsystems(r *http.Request) (any, error) {
	v := s.backend.View()
	member, err := memberFilter(r)
	if err != nil {
		return nil, err
	}
	return list(r, v.Height(), v.Subsystems, subsystemOf, func(x civibus.Subsystem) bool {
		return member.IsZero() || x.ID.MemberID == member
	})
}

func (s *Server) subsystem(r *http.Request) (any, error) {
	raw := rawID(r, "/v1/subsystems/")
	id, err := civibus.ParseClientID(raw)
	if err != nil {
		return nil, badID(err)
	}
	x, ok := s.backend.View().Subsystem(id)
	if !ok {
		return nil, notFound("subsystem", raw)
	}
	return subsystemOf(x), nil
}

func (s *Server) services(r *http.Request) (any, error) {
	v := s.backend.View()
	member, err := memberFilter(r)
	if err != nil {
		return nil, err
	}
	return list(r, v.Height(), v.Services, serviceOf, func(x civibus.Service) bool {
		return member.IsZero() || x.ID.MemberID == member
	})
}

func (s *Server) service(r *http.Request) (any, error) {
	raw := rawID(r, "/v1/services/")
	id, err := civibus.ParseServiceID(raw)
	if err != nil {
		return nil, badID(err)
	}
	x, ok := s.backend.View().Service(id)
	if !ok {
		return nil, notFound("service", raw)
	}
	return serviceOf(x), nil
}

func (s *Server) rights(r *http.Request) (any, error) {
	v := s.backend.View()
	q := r.URL.Query()
	member, err := memberFilter(r)
	if err != nil {
		return nil, err
	}
	service, client := q.Get("service"), q.Get("client")
	return list(r, v.Height(), v.Rights, rightOf, func(x civibus.AccessRight) bool {
		return (member.IsZero() || x.Service.MemberID == member || x.Client.MemberID == member) &&
			(service == "" || x.Service.String() == service) &&
			(client == "" || x.Group == "" && x.Client.String() == client)
	})
}

func (s *Server) right(r *http.Request) (any, error) {
	id := r.PathValue("id")
	x, ok := s.backend.View().Right(id)
	if !ok {
		return nil, notFound("right", id)
	}
	return rightOf(x), nil
}

func (s *Server) keys(r *http.Request) (any, error) {
	v := s.backend.View()
	member, err := memberFilter(r)
	if err != nil {
		return nil, err
	}
	purpose := r.URL.Query().Get("purpose")
	if purpose != "" {
		if _, err := civibus.ParsePurpose(purpose); err != nil {
			return nil, Problemf(http.StatusBadRequest, "invalid_parameter", "%v", err)
		}
	}
	convert := func(k civibus.RegisteredKey) Key { return keyOf(k, v.Height()) }
	return list(r, v.Height(), v.Keys, convert, func(x civibus.RegisteredKey) bool {
		return (member.IsZero() || x.Member == member) && (purpose == "" || x.Purpose.String() == purpose)
	})
}

func (s *Server) key(r *http.Request) (any, error) {
	id, err := civibus.ParseKeyID(r.PathValue("id"))
	if err != nil {
		return nil, badID(err)
	}
	v := s.backend.View()
	k, ok := v.Key(id)
	if !ok {
		return nil, notFound("key", id.String())
	}
	return keyOf(k, v.Height()), nil
}

func (s *Server) groups(r *http.Request) (any, error) {
	v := s.backend.View()
	return list(r, v.Height(), v.Groups, func(g civibus.Group) Group { return Group{g.ID, g.Title} }, nil)
}

func (s *Server) logs(r *http.Request) (any, error) {
	v := s.backend.View()
	return list(r, v.Height(), v.Logs, logOf, nil)
}

func memberFilter(r *http.Request) (civibus.MemberID, error) {
	v := r.URL.Query().Get("member")
	if v == "" {
		return civibus.MemberID{}, nil
	}
	id, err := civibus.ParseMemberID(v)
	if err != nil {
		return id, badID(err)
	}
	return id, nil
}
