package pki

import (
	"bytes"
	"crypto/sha1" //nolint:gosec // the hash that OpenSSL gives names; nothing is proved by it
	"encoding/asn1"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"unicode/utf16"
	"unicode/utf8"
)

// ErrName is wrapped by every error about a distinguished name that cannot be read.
var ErrName = errors.New("malformed distinguished name")

// maxName is the size of the largest name that is hashed, in bytes.
const maxName = 16 << 10

// NameHash is OpenSSL's hash of a distinguished name, as versions from 1.0 on
// compute it (X509_NAME_hash; openssl x509 -subject_hash prints it in hexadecimal):
// the first four bytes, little endian, of the SHA-1 of the name in a canonical
// form. raw is the name's DER, such as x509.Certificate.RawSubject. Func writes it
// in decimal behind a CN. It tells names apart and proves nothing: not the key,
// and not who signed. The error wraps ErrName.
func NameHash(raw []byte) (uint32, error) {
	canonical, err := canonicalName(raw)
	if err != nil {
		return 0, fmt.Errorf("%w: %v", ErrName, err)
	}
	sum := sha1.Sum(canonical)
	return binary.LittleEndian.Uint32(sum[:4]), nil
}

// canonicalName is x509_name_canon of OpenSSL's crypto/x509/x_name.c: the sets
// of the name, one behind the other, every text of them in UTF-8, in lower case and
// with single blanks.
func canonicalName(raw []byte) ([]byte, error) {
	if len(raw) > maxName {
		return nil, fmt.Errorf("%d bytes are more than %d", len(raw), maxName)
	}
	var name asn1.RawValue
	rest, err := asn1.Unmarshal(raw, &name)
	if err != nil {
		return nil, err
	}
	if len(rest) > 0 || !is(name, asn1.TagSequence, true) {
		return nil, errors.New("not a sequence")
	}
	var out []byte
	err = each(name.Bytes, func(set asn1.RawValue) error {
		if !is(set, asn1.TagSet, true) {
			return errors.New("not a set")
		}
		var parts [][]byte
		err := each(set.Bytes, func(v asn1.RawValue) error {
			part, err := canonicalPart(v)
			parts = append(parts, part)
			return err
		})
		if err != nil {
			return err
		}
		slices.SortFunc(parts, bytes.Compare) // DER's order of a set
		out = append(out, tlv(0x31, bytes.Join(parts, nil))...)
		return nil
	})
	return out, err
}

// canonicalPart is one attribute: SEQUENCE { OBJECT IDENTIFIER, value }.
func canonicalPart(v asn1.RawValue) ([]byte, error) {
	if !is(v, asn1.TagSequence, true) {
		return nil, errors.New("an attribute is no sequence")
	}
	var in []asn1.RawValue
	if err := each(v.Bytes, func(v asn1.RawValue) error { in = append(in, v); return nil }); err != nil {
		return nil, err
	}
	if len(in) != 2 || !is(in[0], asn1.TagOID, false) {
		return nil, errors.New("an attribute is not a type and a value")
	}
	value := in[1].FullBytes
	text, ok, err := textOf(in[1])
	if err != nil {
		return nil, err
	}
	if ok {
		value = tlv(asn1.TagUTF8String, squeeze(text))
	}
	return tlv(0x30, append(slices.Clone(in[0].FullBytes), value...)), nil
}

// textOf gives a text of one of the types that OpenSSL makes canonical, in UTF-8;
// false for any other value, which stays as it is.
func textOf(v asn1.RawValue) ([]byte, bool, error) {
	const tagUniversal, tagVisible = 28, 26
	if v.Class != asn1.ClassUniversal || v.IsCompound {
		return nil, false, nil
	}
	var out []byte
	switch v.Tag {
	case asn1.TagUTF8String:
		if !utf8.Valid(v.Bytes) {
			return nil, false, errors.New("a text is not UTF-8")
		}
		return v.Bytes, true, nil
	case asn1.TagPrintableString, asn1.TagT61String, asn1.TagIA5String, tagVisible:
		for _, c := range v.Bytes { // one byte, one character
			out = utf8.AppendRune(out, rune(c))
		}
		return out, true, nil
	case asn1.TagBMPString:
		if len(v.Bytes)%2 != 0 {
			return nil, false, errors.New("half a character")
		}
		for i := 0; i < len(v.Bytes); i += 2 {
			r := rune(binary.BigEndian.Uint16(v.Bytes[i:]))
			if utf16.IsSurrogate(r) {
				return nil, false, errors.New("half a character")
			}
			out = utf8.AppendRune(out, r)
		}
		return out, true, nil
	case tagUniversal:
		if len(v.Bytes)%4 != 0 {
			return nil, false, errors.New("half a character")
		}
		for i := 0; i < len(v.Bytes); i += 4 {
			r := binary.BigEndian.Uint32(v.Bytes[i:])
			if r > utf8.MaxRune || !utf8.ValidRune(rune(r)) {
				return nil, false, errors.New("no character")
			}
			out = utf8.AppendRune(out, rune(r))
		}
		return out, true, nil
	}
	return nil, false, nil
}

// squeeze takes blanks from both ends, makes one of several within, and lower case
// of ASCII letters; other letters stay.
func squeeze(s []byte) []byte {
	out := make([]byte, 0, len(s))
	for _, word := range bytes.FieldsFunc(s, func(r rune) bool { return r == ' ' || r >= '\t' && r <= '\r' }) {
		if len(out) > 0 {
			out = append(out, ' ')
		}
		for _, c := range word {
			if c >= 'A' && c <= 'Z' {
				c += 'a' - 'A'
			}
			out = append(out, c)
		}
	}
	return out
}

func is(v asn1.RawValue, tag int, compound bool) bool {
	return v.Class == asn1.ClassUniversal && v.Tag == tag && v.IsCompound == compound
}

// each visits the values that stand one behind the other in b.
func each(b []byte, visit func(asn1.RawValue) error) error {
	for len(b) > 0 {
		var v asn1.RawValue
		rest, err := asn1.Unmarshal(b, &v)
		if err != nil {
			return err
		}
		if err := visit(v); err != nil {
			return err
		}
		b = rest
	}
	return nil
}

// tlv is DER: tag, length, content.
func tlv(tag byte, content []byte) []byte {
	n := len(content)
	var head []byte
	switch {
	case n < 0x80:
		head = []byte{tag, byte(n)}
	case n < 0x100:
		head = []byte{tag, 0x81, byte(n)}
	default: // at most twice maxName
		head = []byte{tag, 0x82, byte(n >> 8), byte(n)}
	}
	return append(head, content...)
}
