// A received signature document, read strictly (appliance/seal/signature.py): what is signed, by whom, with which evidence.
//
// Everything that lets one document say two things is refused: more than one Signature, an Id that stands twice, unknown elements in the
// signed structure, transforms beyond the two canonicalisations.

import { base64, checkDigest, DIGEST_URIS, digestOf, equal } from "./bytes.js";
import { canonical, CANONICAL, INCLUSIVE } from "./c14n.js";
import { Unverified } from "./errors.js";
import { isOfKey, schemeOfUri } from "./signatures.js";
import { attribute, child, elements, parseStrict, text, walk } from "./xml.js";

const SIGNATURE_BYTES_MAX = 1024 * 1024;
const DEPTH_MAX = 32;
const VALUES_MAX = 16;
const REFERENCES_MAX = 1024;
const DS = "{http://www.w3.org/2000/09/xmldsig#}";
const XADES = "{http://uri.etsi.org/01903/v1.3.2#}";
const PREFIXES = new Map([
  ["http://www.w3.org/2000/09/xmldsig#", "ds"],
  ["http://uri.etsi.org/01903/v1.3.2#", "xades"],
  ["http://uri.etsi.org/01903/v1.4.1#", "xades141"],
]);
const ROOT = /^\{http:\/\/uri\.etsi\.org\/02918\/v1\.[12]\.1#\}XAdESSignatures$/;
const PROPERTIES_TYPE = "http://uri.etsi.org/01903#SignedProperties";
const XML = "http://www.w3.org/XML/1998/namespace";

/** Element -> its children in order. What is not listed is signed or ignored, never read. */
const STRUCTURE = new Map(
  Object.entries({
    "ds:Signature": "ds:SignedInfo ds:SignatureValue ds:KeyInfo (ds:Object )+",
    "ds:SignedInfo": "ds:CanonicalizationMethod ds:SignatureMethod (ds:Reference )+",
    "ds:CanonicalizationMethod": "",
    "ds:SignatureMethod": "",
    "ds:Reference": "(ds:Transforms )?ds:DigestMethod ds:DigestValue ",
    "ds:Transforms": "(ds:Transform )+",
    "ds:Transform": "",
    "ds:DigestMethod": "",
    "ds:DigestValue": "",
    "ds:SignatureValue": "",
    "ds:KeyInfo": "(ds:KeyName |ds:KeyValue )*ds:X509Data ",
    "ds:X509Data": "(ds:X509(IssuerSerial|SKI|SubjectName) )*(ds:X509Certificate )+",
    "ds:X509Certificate": "",
    "xades:QualifyingProperties": "xades:SignedProperties (xades:UnsignedProperties )?",
    "xades:SignedProperties": "xades:SignedSignatureProperties (xades:SignedDataObjectProperties )?",
    "xades:SignedSignatureProperties":
      "(xades:SigningTime )?xades:SigningCertificate(V2)? (xades:SignaturePolicyIdentifier )?(xades:SignatureProductionPlace(V2)? )?(xades:SignerRole(V2)? )?",
    "xades:SigningCertificate": "(xades:Cert )+",
    "xades:SigningCertificateV2": "(xades:Cert )+",
    "xades:Cert": "xades:CertDigest (xades:IssuerSerial(V2)? )?",
    "xades:CertDigest": "ds:DigestMethod ds:DigestValue ",
    "xades:UnsignedProperties": "(xades:UnsignedSignatureProperties )?(xades:UnsignedDataObjectProperties )?",
    "xades:UnsignedSignatureProperties": "(xades(141)?:(\\w+TimeStamp|\\w+Refs(V2)?|\\w+Values|TimeStampValidationData) )*",
    "xades:SignatureTimeStamp": "(ds:CanonicalizationMethod )?(xades:EncapsulatedTimeStamp )+",
    "xades:EncapsulatedTimeStamp": "",
    "xades:RevocationValues": "(xades:CRLValues )?(xades:OCSPValues )?",
    "xades:OCSPValues": "(xades:EncapsulatedOCSPValue )*",
    "xades:EncapsulatedOCSPValue": "",
    "xades:CertificateValues": "(xades:EncapsulatedX509Certificate )*",
    "xades:EncapsulatedX509Certificate": "",
  }).map(([name, pattern]) => [name, new RegExp(`^(?:${pattern})$`)]),
);

function malformed(message) {
  return new Unverified("seal.malformed", message);
}

/** Reads META-INF/signatures.xml. Throws seal.malformed. */
export function parseSignature(bytes) {
  try {
    return taken(parseStrict(bytes, SIGNATURE_BYTES_MAX, DEPTH_MAX));
  } catch (error) {
    if (error instanceof Unverified) throw malformed(error.message);
    throw error;
  }
}

function taken(root) {
  const signature = signatureElement(root);
  checkIds(root);
  for (const element of walk(signature)) checkStructure(element);
  const [info, value, keyInfo] = elements(signature);
  const properties = signedProperties(signature);
  const [canonicalisation, method] = elements(info).map((one) => attribute(one, "Algorithm"));
  const found = references(info, properties);
  if (!CANONICAL.has(canonicalisation)) throw malformed(`canonicalisation ${canonicalisation}`);
  const [signatureProperties] = elements(properties);
  return {
    signedInfo: canonical(info, canonicalisation),
    method,
    value: decoded(value),
    certificate: decoded(all(keyInfo, DS, "X509Certificate")[0]),
    references: found.external,
    properties: found.canonical,
    propertiesDigest: found.own,
    certificateDigests: [...walk(signatureProperties)].filter((one) => one.tag === `${XADES}Cert`).map((one) => digestIn(...elements(elements(one)[0]))),
    signingTime: child(signatureProperties, `${XADES}SigningTime`) ? text(child(signatureProperties, `${XADES}SigningTime`)) : "",
    ocspResponses: all(signature, XADES, "EncapsulatedOCSPValue").map(decoded),
    stamps: all(signature, XADES, "SignatureTimeStamp").flatMap((stamp) =>
      [...walk(stamp)].filter((one) => one.tag === `${XADES}EncapsulatedTimeStamp`).map(decoded),
    ),
  };
}

/** The signed properties are those signed and name this certificate; the value is of SignedInfo under its key. */
export async function checkValue(signature, certificate) {
  await checkDigest("the signed properties", signature.properties, signature.propertiesDigest);
  const [named] = signature.certificateDigests;
  // (1) a certificate that came beside the signature is no evidence until the signature names it
  if (!equal(await digestOf(named.algorithm, signature.certificate), named.value)) {
    throw new Unverified("seal.signing_certificate", "the signed properties name another certificate");
  }
  const scheme = schemeOfUri(signature.method);
  if (!scheme) throw malformed(`signature method ${signature.method}`);
  if (!(await isOfKey(certificate.key, scheme, signature.value, signature.signedInfo))) {
    throw new Unverified("seal.signature_value", "the signature value does not hold");
  }
}

/** The one Signature: the root itself (DSS) or the only child of XAdESSignatures. */
function signatureElement(root) {
  const children = elements(root);
  const isWrapped = ROOT.test(root.tag) && children.length === 1 && children[0].tag === `${DS}Signature`;
  if (!isWrapped && root.tag !== `${DS}Signature`) throw malformed("neither XAdESSignatures with one Signature nor a Signature");
  // a second one could be the one that is verified while this one is read (signature wrapping)
  if ([...walk(root)].filter((one) => one.tag === `${DS}Signature`).length !== 1) throw malformed("more than one Signature");
  return isWrapped ? children[0] : root;
}

/** No Id stands twice: a reference then means one element for every reader. */
function checkIds(root) {
  const isId = ({ namespace, local }) => (namespace === "" && ["Id", "ID", "id"].includes(local)) || (namespace === XML && local === "id");
  const found = [...walk(root)].flatMap((element) => element.attributes.filter(isId).map((one) => one.value));
  if (new Set(found).size !== found.length) throw malformed("an Id stands twice");
}

function checkStructure(element) {
  const pattern = STRUCTURE.get(shortName(element));
  const children = elements(element).map((one) => `${shortName(one)} `);
  if (pattern && !pattern.test(children.join(""))) throw malformed(`unexpected children in ${shortName(element)}`);
}

function shortName(element) {
  return `${PREFIXES.get(element.namespace) ?? "?"}:${element.local}`;
}

function signedProperties(signature) {
  const holders = all(signature, XADES, "QualifyingProperties");
  if (holders.length !== 1 || !elements(signature).slice(3).includes(holders[0].parent)) throw malformed("not exactly one QualifyingProperties");
  if (attribute(holders[0], "Target") !== `#${attribute(signature, "Id")}`) throw malformed("the properties are of another signature");
  return elements(holders[0])[0];
}

/** External references by name, and the one of the signed properties with their canonical form. */
function references(info, properties) {
  const external = new Map();
  const own = [];
  for (const reference of elements(info).slice(2)) {
    const uri = attribute(reference, "URI");
    const children = elements(reference);
    const transforms = children.length === 3 ? elements(children[0]).map((one) => attribute(one, "Algorithm")) : [];
    const digest = digestIn(...children.slice(-2));
    if (attribute(reference, "Type") === PROPERTIES_TYPE) {
      if (uri !== `#${attribute(properties, "Id")}` || transforms.length > 1 || !transforms.every((one) => CANONICAL.has(one))) {
        throw malformed("the reference to the signed properties");
      }
      own.push({ own: digest, canonical: canonical(properties, transforms[0] ?? INCLUSIVE) });
    } else if (!uri.startsWith("/") || transforms.length || external.has(uri) || external.size >= REFERENCES_MAX) {
      throw malformed("a reference to a file names it once, as it is");
    } else {
      external.set(uri, digest);
    }
  }
  if (own.length !== 1) throw malformed("the signed properties are not referenced exactly once");
  return { external, ...own[0] };
}

function all(element, namespace, local) {
  const found = [...walk(element)].filter((one) => one.tag === namespace + local);
  if (found.length > VALUES_MAX) throw malformed(`more than ${VALUES_MAX} of ${local}`);
  return found;
}

function digestIn(method, value) {
  const algorithm = attribute(method, "Algorithm");
  if (!DIGEST_URIS.has(algorithm)) throw malformed(`digest algorithm ${algorithm}`);
  return { algorithm, value: decoded(value) };
}

function decoded(element) {
  const bytes = base64(text(element));
  if (bytes === null) throw malformed(`${shortName(element)} is not base64`);
  return bytes;
}
