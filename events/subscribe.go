package events

import (
	"context"
	"errors"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/syndtr/goleveldb/leveldb"
	"github.com/syndtr/goleveldb/leveldb/util"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/policy"
)

// Subscribe makes a subscription, or returns the one that there is of the same client,
// topic and name. Only one that was just made has its secret.
func (r *Room) Subscribe(client civibus.ClientID, wish Wish) (out Subscription, made bool, err error) {
	// 1. The fields.
	topic, err := parseTopic(wish.Topic)
	if err != nil {
		return out, false, err
	}
	setDefault(&wish.Name, "default")
	setDefault(&wish.From, FromLatest)
	if err := checkName(wish.Name); err != nil {
		return out, false, err
	}
	if wish.From != FromFirst && wish.From != FromLatest {
		if _, err := strconv.ParseUint(wish.From, 10, 63); err != nil {
			return out, false, fault(civibus.FaultBadCursor, "from is %.40q, the rule is first, latest or the number of the event to begin after", wish.From)
		}
	}
	if wish.Webhook != "" {
		u, err := url.Parse(wish.Webhook)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil || u.Fragment != "" || len(wish.Webhook) > 2048 {
			return out, false, fault(civibus.FaultWebhook, "the webhook is no http or https URL of at most 2048 bytes without a user and a fragment")
		}
		if err := r.allowed(wish.Webhook); err != nil {
			return out, false, err
		}
	}
	// 2. The topic, and the right to it.
	if t, ok := r.cfg.View().Topic(topic); !ok || t.Status == civibus.Ended {
		return out, false, fault(civibus.FaultUnknownTopic, "there is no topic %s in the registry", topic)
	}
	d := policy.Decide(r.cfg.View(), civibus.Question{Client: client, Service: topic.Service, Method: civibus.MethodSubscribe, Path: topic.Path()}, r.cfg.Clock())
	if !d.Allowed() {
		return out, false, fault(d.Code, "%s", d.Message)
	}
	// 3. Once.
	r.mu.Lock()
	for _, s := range r.subs {
		if s.client == client && s.topic == topic && s.info.Name == wish.Name {
			r.mu.Unlock()
			v := s.snapshot()
			if v.Webhook != wish.Webhook {
				return out, false, fault(civibus.FaultEventConflict, "subscription %s of the same topic and name has another webhook; end it first, or give this one another name", v.ID)
			}
			return v, false, nil
		}
	}
	n := len(r.subs)
	r.mu.Unlock()
	if n >= maxOwn {
		return out, false, fault(civibus.FaultTooManySubscriptions, "this body has %d subscriptions, the rule is at most %d", n, maxOwn)
	}
	v := saved{Subscription: Subscription{
		ID: newID(), Client: client.String(), Topic: topic.String(), Name: wish.Name, From: wish.From, Webhook: wish.Webhook,
		Created: r.cfg.Clock().UTC(), State: "active",
	}}
	if wish.Webhook != "" {
		v.Secret = newSecret()
	}
	s, err := r.openSubscription(v)
	if err != nil {
		return out, false, err
	}
	if err := s.save(); err != nil {
		return out, false, errors.Join(err, s.stream.close())
	}
	r.begin(s)
	return v.Subscription, true, nil
}

// Unsubscribe ends a subscription and removes what is kept for it. The provider is told,
// once.
func (r *Room) Unsubscribe(s *subscription) error {
	r.mu.Lock()
	if r.subs[s.info.ID] != s {
		r.mu.Unlock()
		return nil
	}
	delete(r.subs, s.info.ID)
	r.mu.Unlock()
	s.mu.Lock()
	s.removed = true
	s.mu.Unlock()
	close(s.stop)
	<-s.gone
	batch := new(leveldb.Batch)
	batch.Delete(subscriptionKey(s.info.ID))
	batch.Delete(cursorKey(s.info.ID))
	it := r.db.NewIterator(util.BytesPrefix([]byte("d/"+s.info.ID+"/")), nil)
	for it.Next() {
		batch.Delete(it.Key())
	}
	it.Release()
	if err := r.db.Write(batch, sync1()); err != nil {
		return err
	}
	if err := s.stream.close(); err != nil {
		r.cfg.Logger.Warn("inbox not closed", "subscription", s.info.ID, "error", err)
	}
	r.work.Go(func() { r.removeInbox(s.info.ID) })
	r.work.Go(func() {
		ctx, cancel := context.WithTimeout(r.ctx, 30*time.Second)
		defer cancel()
		q := url.Values{"end": {"1"}, "name": {s.info.Name}}
		if _, _, err := r.cfg.Ask(ctx, Question{Client: s.client, Service: s.topic.Service, Path: s.topic.Path(), Query: q.Encode()}); err != nil {
			r.cfg.Logger.Info("the provider does not know that a subscription has ended", "topic", s.info.Topic, "error", err)
		}
	})
	return nil
}

// removeInbox removes what is kept for a subscription that has ended. A backup that is
// under way has it to its end.
func (r *Room) removeInbox(id string) {
	r.keep.Lock()
	defer r.keep.Unlock()
	if err := os.RemoveAll(filepath.Join(r.cfg.Dir, inboxDir, id)); err != nil {
		r.cfg.Logger.Error("inbox not removed", "subscription", id, "error", err)
	}
}
