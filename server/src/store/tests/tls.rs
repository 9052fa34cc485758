//! TLS to a database: what each `sslmode` does where the server has it and where not, and whose certificates are taken.

use super::postgres::Postgres;
use crate::store::sql::{Address, values};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

/// Whether a connection is encrypted, or why there is none.
fn encrypted(url: &str, options: &str) -> Result<bool, String> {
    let sql = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
    let connected = Address::parse(&format!("{url}?{options}")).and_then(|address| address.connect(""));
    connected.and_then(|mut connection| connection.value(sql, values![])).map_err(|error| {
        let text = error.to_string();
        assert!(!text.contains("secret"), "{text}");
        text
    })
}

fn authority() -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("a certificate")
}

#[test]
#[ignore = "needs PostgreSQL with TLS"]
fn tls_to_the_database_is_what_its_address_asks_for() {
    let server = Postgres::start();
    let url = server.fresh("tls").replace("127.0.0.1", "localhost");
    assert_eq!(encrypted(&url, ""), Ok(false), "nobody offers TLS yet");
    let refusal = encrypted(&url, "sslmode=require").expect_err("there is no TLS");
    assert!(refusal.contains("server does not support TLS"), "{refusal}");

    let (root, other) = (authority(), authority());
    let key = KeyPair::generate().expect("a key");
    let params = CertificateParams::new(vec!["localhost".to_owned()]).expect("a name");
    let certificate = params.signed_by(&key, &root).expect("signed");
    let server = server.with_tls(&certificate.pem(), &key.serialize_pem());
    let dir = tempfile::tempdir().expect("a folder for the test");
    let option = |name: &str, pem: String| {
        let path = dir.path().join(name);
        std::fs::write(&path, pem).expect("written");
        format!("sslrootcert={}", path.display())
    };
    let (root, other) = (option("root.pem", root.pem()), option("other.pem", other.pem()));
    for mode in ["require", "prefer"] {
        let with = |option: &str| encrypted(&url, &format!("sslmode={mode}&{option}"));
        assert_eq!(with(&root), Ok(true), "{mode}");
        // another root, and Mozilla's
        for option in [other.as_str(), ""] {
            let refusal = with(option).expect_err("nobody that is trusted signed it");
            assert!(refusal.contains("certificate") && refusal.contains("sslrootcert=FILE"), "{mode}: {refusal}");
        }
        let refusal = encrypted(&url.replace("localhost", "127.0.0.1"), &format!("sslmode={mode}&{root}"));
        assert!(refusal.is_err_and(|text| text.contains("certificate")), "{mode}: it is for another name");
    }
    assert_eq!(encrypted(&url, "sslmode=disable"), Ok(false));
    drop(server);
}
