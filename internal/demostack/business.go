package demostack

import (
	"bytes"
	"context"
	_ "embed"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"slices"
	"strings"
)

// BusinessNamespace is the target namespace of the business register's WSDL.
const BusinessNamespace = "urn:fictitious:business-register:v1"

const soapNamespace = "http://schemas.xmlsoap.org/soap/envelope/"

//go:embed business.wsdl
var businessWSDL string

// company is an invented entry of the business register, as its schema has it.
type company struct {
	RegistrationCode string    `xml:"registrationCode"`
	Name             string    `xml:"name"`
	LegalForm        string    `xml:"legalForm"`
	Active           bool      `xml:"active"`
	ShareCapital     string    `xml:"shareCapital"`
	Officers         []officer `xml:"officer"`
}

type officer struct {
	Name string `xml:"name"`
	Role string `xml:"role"`
}

// The messages of the register, document/literal wrapped.
type (
	getCompany struct {
		XMLName          xml.Name `xml:"urn:fictitious:business-register:v1 GetCompany"`
		RegistrationCode string   `xml:"registrationCode"`
	}
	getCompanyResponse struct {
		XMLName xml.Name `xml:"urn:fictitious:business-register:v1 GetCompanyResponse"`
		Company company  `xml:"company"`
	}
	searchCompanies struct {
		XMLName  xml.Name `xml:"urn:fictitious:business-register:v1 SearchCompanies"`
		NamePart string   `xml:"namePart"`
		Limit    int      `xml:"limit"`
	}
	searchCompaniesResponse struct {
		XMLName   xml.Name  `xml:"urn:fictitious:business-register:v1 SearchCompaniesResponse"`
		Total     int       `xml:"total"`
		Companies []company `xml:"company"`
	}
)

// business is the register; its data do not change.
type business struct{ companies []company }

// StartBusiness starts the business register: SOAP 1.1 by POST to the returned
// URL and /soap, described by /soap?wsdl.
func StartBusiness(ctx context.Context, address string) (*Server, error) {
	return start(ctx, address, newBusiness)
}

func newBusiness(base string) http.Handler {
	b := &business{}
	forms := []string{"limited company", "cooperative", "foundation"}
	names := []string{"Placeholder Bakery", "Sample Shipping", "Specimen Software", "Example Forestry"}
	for i := 1; i <= 24; i++ {
		b.companies = append(b.companies, company{
			RegistrationCode: fmt.Sprintf("FIC%05d", 10000+i), Name: fmt.Sprintf("%s %d (fictitious)", names[i%len(names)], i), LegalForm: forms[i%len(forms)],
			Active: i%7 != 0, ShareCapital: fmt.Sprintf("%d.50", 2500*i),
			Officers: []officer{{fmt.Sprintf("Example Person %04d", i), "manager"}, {fmt.Sprintf("Example Person %04d", i+1), "auditor"}}[:1+i%2],
		})
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /soap", func(w http.ResponseWriter, r *http.Request) {
		if !strings.EqualFold(r.URL.RawQuery, "wsdl") {
			http.Error(w, "POST a SOAP message, or GET ?wsdl", http.StatusMethodNotAllowed)
			return
		}
		w.Header().Set("Content-Type", "text/xml; charset=utf-8")
		_, _ = io.WriteString(w, strings.ReplaceAll(businessWSDL, "LOCATION", base+"/soap"))
	})
	mux.HandleFunc("POST /soap", b.serve)
	return mux
}

// fault is a SOAP 1.1 fault.
type fault struct {
	XMLName xml.Name `xml:"http://schemas.xmlsoap.org/soap/envelope/ Fault"`
	Code    string   `xml:"faultcode"`
	String  string   `xml:"faultstring"`
	Detail  *detail  `xml:"detail,omitempty"`
}

type detail struct {
	NotFound *struct {
		RegistrationCode string `xml:"registrationCode"`
	} `xml:"urn:fictitious:business-register:v1 CompanyNotFound,omitempty"`
}

// Error says what is wrong.
func (f *fault) Error() string { return f.Code + ": " + f.String }

func clientFault(format string, args ...any) *fault {
	return &fault{Code: "soap:Client", String: fmt.Sprintf(format, args...)}
}

func (b *business) serve(w http.ResponseWriter, r *http.Request) {
	answer, err := b.answer(r)
	status := http.StatusOK
	if err != nil {
		var f *fault
		if !errors.As(err, &f) {
			f = &fault{Code: "soap:Server", String: "internal error"}
		}
		status, answer = http.StatusInternalServerError, f
	}
	var out bytes.Buffer
	out.WriteString(xml.Header + `<soap:Envelope xmlns:soap="` + soapNamespace + `"><soap:Body>`)
	if err := xml.NewEncoder(&out).Encode(answer); err != nil {
		http.Error(w, "internal error", http.StatusInternalServerError)
		return
	}
	out.WriteString(`</soap:Body></soap:Envelope>`)
	w.Header().Set("Content-Type", "text/xml; charset=utf-8")
	w.WriteHeader(status)
	_, _ = w.Write(out.Bytes())
}

// answer reads the message and runs the operation that its body names.
func (b *business) answer(r *http.Request) (any, error) {
	if media, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || media != "text/xml" {
		return nil, clientFault("the content type must be text/xml")
	}
	if _, ok := r.Header["Soapaction"]; !ok {
		return nil, clientFault("the header SOAPAction is missing")
	}
	raw, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	var envelope struct {
		XMLName xml.Name
		Header  struct {
			Blocks []struct {
				MustUnderstand string `xml:"http://schemas.xmlsoap.org/soap/envelope/ mustUnderstand,attr"`
			} `xml:",any"`
		} `xml:"http://schemas.xmlsoap.org/soap/envelope/ Header"`
		Body struct {
			Inner []byte `xml:",innerxml"`
			First struct {
				XMLName xml.Name
			} `xml:",any"`
		} `xml:"http://schemas.xmlsoap.org/soap/envelope/ Body"`
	}
	if err := xml.Unmarshal(raw, &envelope); err != nil {
		return nil, clientFault("the message is not well-formed XML")
	}
	if envelope.XMLName.Local != "Envelope" || envelope.XMLName.Space != soapNamespace {
		return nil, &fault{Code: "soap:VersionMismatch", String: "the message is not a SOAP 1.1 envelope"}
	}
	for _, block := range envelope.Header.Blocks {
		if block.MustUnderstand == "1" {
			return nil, &fault{Code: "soap:MustUnderstand", String: "a header block is not understood"}
		}
	}
	var get getCompany
	var search searchCompanies
	switch name := envelope.Body.First.XMLName; name {
	case xml.Name{Space: BusinessNamespace, Local: "GetCompany"}:
		if err := unmarshalBody(raw, &get); err != nil {
			return nil, err
		}
		return b.get(get)
	case xml.Name{Space: BusinessNamespace, Local: "SearchCompanies"}:
		if err := unmarshalBody(raw, &search); err != nil {
			return nil, err
		}
		return b.search(search)
	default:
		return nil, clientFault("no operation has the element %s", name.Local)
	}
}

// unmarshalBody decodes the first element of the SOAP body. It reads the whole
// message again, since prefixes may be declared on the envelope.
func unmarshalBody(raw []byte, into any) error {
	decoder := xml.NewDecoder(bytes.NewReader(raw))
	for depth := 0; ; {
		token, err := decoder.Token()
		if err != nil {
			return clientFault("the body is empty")
		}
		start, ok := token.(xml.StartElement)
		if !ok {
			continue
		}
		if depth++; start.Name.Space == soapNamespace {
			continue
		}
		if err := decoder.DecodeElement(into, &start); err != nil {
			return clientFault("the body does not fit the schema")
		}
		return nil
	}
}

func (b *business) get(q getCompany) (any, error) {
	if !strings.HasPrefix(q.RegistrationCode, "FIC") || len(q.RegistrationCode) != 8 {
		return nil, clientFault("registrationCode must be FIC and five digits")
	}
	i := slices.IndexFunc(b.companies, func(c company) bool { return c.RegistrationCode == q.RegistrationCode })
	if i < 0 {
		f := clientFault("no company has this registration code")
		f.Detail = &detail{NotFound: &struct {
			RegistrationCode string `xml:"registrationCode"`
		}{q.RegistrationCode}}
		return nil, f
	}
	return &getCompanyResponse{Company: b.companies[i]}, nil
}

func (b *business) search(q searchCompanies) (any, error) {
	if len(q.NamePart) < 3 {
		return nil, clientFault("namePart must have three characters or more")
	}
	if q.Limit < 0 || q.Limit > 100 {
		return nil, clientFault("limit must be 1 to 100")
	}
	if q.Limit == 0 {
		q.Limit = 10
	}
	var out searchCompaniesResponse
	for _, c := range b.companies {
		if strings.Contains(strings.ToLower(c.Name), strings.ToLower(q.NamePart)) {
			if out.Total++; len(out.Companies) < q.Limit {
				out.Companies = append(out.Companies, c)
			}
		}
	}
	return &out, nil
}
