package gateway

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"net/http"
	"strconv"
	"strings"

	"github.com/civibus/civibus"
)

// clientList is X-Road's list of members and subsystems.
type clientList struct {
	Member []listedClient `json:"member"`
}

type listedClient struct {
	ID            listedID `json:"id"`
	Name          string   `json:"name,omitempty"`
	SubsystemName string   `json:"subsystem_name,omitempty"`
}

type listedID struct {
	ObjectType    string `json:"object_type"`
	XRoadInstance string `json:"xroad_instance"`
	MemberClass   string `json:"member_class"`
	MemberCode    string `json:"member_code"`
	SubsystemCode string `json:"subsystem_code,omitempty"`
}

// listPage is how many items are taken from the registry at a time.
const listPage = 1000

// listClients answers GET /listClients: every active member and subsystem of
// the instance. It needs no client, as with X-Road.
func (g *Gateway) listClients(w http.ResponseWriter, r *http.Request) {
	v := g.config.View()
	if i := r.URL.Query().Get("xRoadInstance"); i != "" && i != v.Instance() {
		fault := civibus.Faultf(civibus.ConsumerGateway, civibus.FaultBadRequest, "Unknown instance %q: this gateway knows %s only", i, v.Instance())
		g.problems.Document(fault, r.Header["Accept"], "").WriteTo(w, r)
		return
	}
	list := clientsOf(v)
	body, contentType := list.xml(), "text/xml; charset=utf-8"
	if acceptsJSON(r.Header["Accept"]) {
		var err error
		if body, err = json.Marshal(list); err != nil {
			g.problems.Document(civibus.AsFault(civibus.ConsumerGateway, err), nil, "").WriteTo(w, r)
			return
		}
		contentType = "application/json; charset=utf-8"
	}
	w.Header().Set("Content-Type", contentType)
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	_, _ = w.Write(body) // the client went away: nobody to tell
}

func clientsOf(v View) clientList {
	out := clientList{Member: []listedClient{}}
	names := make(map[civibus.MemberID]string)
	for after, more := "", true; more; more = after != "" {
		var members []civibus.Member
		members, after = v.Members(after, listPage)
		for _, m := range members {
			if m.Status != civibus.Active {
				continue
			}
			names[m.ID] = m.Name
			out.Member = append(out.Member, listedClient{Name: m.Name, ID: listedID{
				ObjectType: "MEMBER", XRoadInstance: m.ID.Instance, MemberClass: m.ID.Class, MemberCode: m.ID.Code}})
		}
	}
	for after, more := "", true; more; more = after != "" {
		var subsystems []civibus.Subsystem
		subsystems, after = v.Subsystems(after, listPage)
		for _, s := range subsystems {
			name, ok := names[s.ID.MemberID]
			if !ok || s.Status != civibus.Active {
				continue
			}
			out.Member = append(out.Member, listedClient{Name: name, SubsystemName: s.Name, ID: listedID{
				ObjectType: "SUBSYSTEM", XRoadInstance: s.ID.Instance, MemberClass: s.ID.Class, MemberCode: s.ID.Code, SubsystemCode: s.ID.Subsystem}})
		}
	}
	return out
}

// acceptsJSON reports whether an item of Accept is exactly application/json.
// "*/*" means XML: X-Road's rule.
func acceptsJSON(accept []string) bool {
	for _, value := range accept {
		for item := range strings.SplitSeq(value, ",") {
			item, _, _ = strings.Cut(item, ";")
			if strings.EqualFold(strings.TrimSpace(item), "application/json") {
				return true
			}
		}
	}
	return false
}

// xml writes the list in X-Road's schema.
func (l clientList) xml() []byte {
	var b bytes.Buffer
	element := func(name, value string) {
		if value != "" {
			b.WriteString("<" + name + ">")
			_ = xml.EscapeText(&b, []byte(value)) // a bytes.Buffer does not fail
			b.WriteString("</" + name + ">")
		}
	}
	b.WriteString(`<?xml version="1.0" encoding="UTF-8" standalone="yes"?>` + "\n" +
		`<xroad:clientList xmlns:xroad="http://x-road.eu/xsd/xroad.xsd" xmlns:id="http://x-road.eu/xsd/identifiers">`)
	for _, m := range l.Member {
		b.WriteString(`<xroad:member><xroad:id id:objectType="` + m.ID.ObjectType + `">`)
		element("id:xRoadInstance", m.ID.XRoadInstance)
		element("id:memberClass", m.ID.MemberClass)
		element("id:memberCode", m.ID.MemberCode)
		element("id:subsystemCode", m.ID.SubsystemCode)
		b.WriteString("</xroad:id>")
		element("xroad:name", m.Name)
		element("xroad:subsystemName", m.SubsystemName)
		b.WriteString("</xroad:member>")
	}
	b.WriteString("</xroad:clientList>")
	return b.Bytes()
}
