package service

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/civibus/civibus"
)

// maxDescription bounds a service description. The largest public ones have
// about 10 MiB.
const maxDescription = 16 << 20

// Description fetches the service's OpenAPI description now and returns it as it
// is, with the content type of its origin (text/plain if it has none). A service
// without description, or an origin that does not answer 200, is a fault.
func (s *Set) Description(ctx context.Context, id civibus.ServiceID) ([]byte, string, error) {
	u, err := s.find(id)
	if err != nil {
		return nil, "", err
	}
	body, contentType, err := u.description(ctx)
	if err != nil {
		fault := civibus.Faultf(civibus.ProviderGateway, civibus.FaultInternal, "the description of service %s cannot be had", id)
		fault.Err = err
		s.config.Logger.WarnContext(ctx, "service description failed", "service", id.String(), "err", err)
		return nil, "", fault
	}
	return body, contentType, nil
}

func (u *upstream) description(ctx context.Context) ([]byte, string, error) {
	where := u.OpenAPI
	switch path, self := strings.CutPrefix(where, "self:"); {
	case where == "":
		return nil, "", fmt.Errorf("no OpenAPI description is configured")
	case self:
		target, err := u.target(path, "")
		if err != nil {
			return nil, "", err
		}
		return u.fetch(ctx, target)
	case strings.HasPrefix(where, "http://"), strings.HasPrefix(where, "https://"):
		target, err := url.Parse(where)
		if err != nil {
			return nil, "", fmt.Errorf("description URL: %w", err)
		}
		return u.fetch(ctx, target)
	}
	return readDescription(where)
}

// fetch gets a description over the service's own connections or, where it is
// elsewhere, over one of its own.
func (u *upstream) fetch(ctx context.Context, target *url.URL) ([]byte, string, error) {
	ctx, cancel := context.WithTimeout(ctx, u.AnswerTimeout)
	defer cancel()
	to := u
	if target.Scheme != u.base.Scheme || target.Host != u.base.Host {
		to = &upstream{Upstream: u.Upstream, conns: u.pool(target)}
		defer to.conns.Close()
	}
	header := http.Header{"Accept": {"application/json, application/yaml, text/yaml, */*;q=0.5"}}
	resp, err := to.roundTrip(ctx, &request{method: http.MethodGet, target: target, header: header})
	if err != nil {
		return nil, "", err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, "", fmt.Errorf("%s answered %d, the rule is 200", target.Redacted(), resp.StatusCode)
	}
	body, err := readLimited(resp.Body, maxDescription)
	if err != nil {
		return nil, "", fmt.Errorf("description at %s: %w", target.Redacted(), err)
	}
	contentType := resp.Header.Get("Content-Type")
	if contentType == "" {
		contentType = "text/plain"
	}
	return body, contentType, nil
}

func readDescription(path string) ([]byte, string, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, "", fmt.Errorf("description file: %w", err)
	}
	defer f.Close()
	body, err := readLimited(f, maxDescription)
	if err != nil {
		return nil, "", fmt.Errorf("description file %s: %w", path, err)
	}
	switch strings.ToLower(filepath.Ext(path)) {
	case ".json":
		return body, "application/json", nil
	case ".yaml", ".yml":
		return body, "application/yaml", nil
	}
	return body, "text/plain", nil
}

// Digest is what the registry holds of a description.
func Digest(description []byte) []byte {
	sum := sha256.Sum256(description)
	return sum[:]
}

// Health is how a service was found.
type Health struct {
	Service civibus.ServiceID
	OK      bool
	Detail  string        // what is wrong, for the operator
	Took    time.Duration // of the check
}

// Health asks each service whether it is there, at the same time, and returns
// the answers by identifier.
func (s *Set) Health(ctx context.Context) []Health {
	s.mu.RLock()
	checked := make([]*upstream, 0, len(s.upstreams))
	for _, u := range s.upstreams {
		checked = append(checked, u)
	}
	s.mu.RUnlock()
	return eachByID(checked, func(u *upstream) Health {
		start := time.Now()
		err := u.health(ctx)
		h := Health{Service: u.Service, OK: err == nil, Took: time.Since(start)}
		if err != nil {
			h.Detail = err.Error()
		}
		return h
	})
}

func (u *upstream) health(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, u.ConnectTimeout)
	defer cancel()
	switch {
	case u.HealthPath != "":
	case u.adapter != nil:
		return nil
	default:
		return u.conns.Connect(ctx)
	}
	resp, err := u.call(ctx, http.MethodGet, u.HealthPath, "", http.Header{}, nil, 0)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	_, _ = io.CopyN(io.Discard, resp.Body, 4<<10)
	if resp.StatusCode >= 500 {
		return fmt.Errorf("%s answered %d, the rule is below 500", u.HealthPath, resp.StatusCode)
	}
	return nil
}
