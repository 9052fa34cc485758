//! Where a PostgreSQL database is, and how a connection to it is made and secured.
//!
//! The URL is read by `tokio-postgres`, but for `sslrootcert`, which that does not know. No message shows a password: what is
//! refused is named by option, and a URL in which a part of the password could be taken for something else is refused first.

use super::super::{Connection, StoreError};
use super::{Link, told};
use std::path::PathBuf;
use std::time::Duration;
use tokio_postgres::config::{Host, SslMode};
use tokio_postgres::{Client, Config};
use tokio_postgres_rustls::MakeRustlsConnect;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

/// Until a connection stands, where the URL does not say.
const CONNECT: Duration = Duration::from_secs(5);

/// Where a database is, and with what to sign in.
#[derive(Clone)]
pub(in crate::store) struct Address {
    config: Config,
    /// Certificates in PEM form of which one has to have signed the server's; `None`: Mozilla's list.
    roots: Option<PathBuf>,
}

impl Address {
    /// Reads `postgres://USER:PASSWORD@HOST:PORT/DATABASE?OPTIONS`; `?host=/run/postgresql` names the folder of a socket,
    /// `sslmode` and `sslrootcert` say how the connection is secured (README.md).
    ///
    /// # Errors
    /// [`StoreError::DatabaseUrl`], which does not show the password.
    pub(in crate::store) fn parse(url: &str) -> Result<Self, StoreError> {
        let wrong = |reason: &str| StoreError::DatabaseUrl { reason: reason.to_owned() };
        if !url.starts_with("postgres://") && !url.starts_with("postgresql://") {
            return Err(wrong("it does not begin with postgres://"));
        }
        if url.matches('@').count() > 1 {
            return Err(wrong("an @ within user, password or option has to be written %40"));
        }
        // a password may hold a question mark
        let options = url[url.find('@').unwrap_or(0)..].split_once('?').map_or("", |(_, options)| options);
        let (mut roots, mut kept) = (None, Vec::new());
        for option in options.split('&').filter(|option| !option.is_empty()) {
            match option.split_once('=') {
                Some(("sslrootcert", file)) => {
                    roots =
                        Some(decoded(file).ok_or_else(|| wrong("a % in sslrootcert is not followed by two digits"))?);
                }
                Some(("sslmode", mode)) if !["disable", "prefer", "require"].contains(&mode) => {
                    let why = "sslmode is disable, prefer or require, which verifies the certificate as verify-full does \
                               elsewhere";
                    return Err(wrong(why));
                }
                Some(("user" | "password", _)) => return Err(wrong("user and password stand before the @")),
                _ => kept.push(option),
            }
        }
        let front = url[..url.len() - options.len()].trim_end_matches('?');
        let mut config: Config = format!("{front}?{}", kept.join("&")).parse().map_err(|error| wrong(&told(&error)))?;
        let hosts = config.get_hosts();
        let is_named = |name: Option<&str>| name.is_some_and(|name| !name.is_empty());
        let has_host = !hosts.is_empty() && !hosts.contains(&Host::Tcp(String::new()));
        if !has_host || !is_named(config.get_user()) || !is_named(config.get_dbname()) {
            return Err(wrong("host, user and database have to be named"));
        }
        if roots.is_some() && config.get_ssl_mode() == SslMode::Disable {
            return Err(wrong("sslrootcert says whom to trust, and sslmode=disable to ask nobody"));
        }
        if config.get_connect_timeout().is_none() {
            config.connect_timeout(CONNECT);
        }
        if config.get_application_name().is_none() {
            config.application_name("beckon");
        }
        Ok(Self { config, roots: roots.map(PathBuf::from) })
    }

    /// For people: without user and password.
    pub(in crate::store) fn shown(&self) -> String {
        let ports = self.config.get_ports();
        let host = |(idx, host): (usize, &Host)| {
            let port = ports.get(idx).or(ports.first()).unwrap_or(&5432);
            match host {
                Host::Tcp(name) => format!("{name}:{port}"),
                #[cfg(unix)]
                Host::Unix(folder) => format!("{}:{port}", folder.display()),
            }
        };
        let hosts: Vec<String> = self.config.get_hosts().iter().enumerate().map(host).collect();
        format!("{}/{}", hosts.join(","), self.config.get_dbname().unwrap_or_default())
    }

    /// A connection that sends `setup` first, whenever it is made.
    ///
    /// # Errors
    /// [`StoreError::Connect`].
    pub(in crate::store) fn connect(&self, setup: &str) -> Result<Connection, StoreError> {
        Ok(Connection::new(Link::connect(self.clone(), setup)?))
    }

    /// Connects and signs in, on the runtime that the connection then lives on; it ends with the client.
    ///
    /// # Errors
    /// Why not.
    pub(super) async fn open(&self) -> Result<Client, String> {
        let (client, connection) = self.config.connect(self.tls()?).await.map_err(|error| {
            let reason = told(&error);
            if !reason.contains("certificate") {
                return reason;
            }
            let what =
                "sslrootcert=FILE names who signs it, sslmode=disable does without TLS on a network that is trusted";
            format!("{reason}; {what}")
        })?;
        // how it ends is told to who asks next
        tokio::spawn(connection);
        Ok(client)
    }

    /// What makes TLS of a connection, where `sslmode` asks for it; the file is read each time, so that it can be replaced.
    fn tls(&self) -> Result<MakeRustlsConnect, String> {
        let Some(file) = &self.roots else { return Ok(MakeRustlsConnect::with_webpki_roots()) };
        let failed = |why: String| format!("the certificates of sslrootcert={}: {why}", file.display());
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_file_iter(file).map_err(|error| failed(error.to_string()))? {
            let certificate = certificate.map_err(|error| failed(error.to_string()))?;
            roots.add(certificate).map_err(|error| failed(error.to_string()))?;
        }
        if roots.is_empty() {
            return Err(failed("there is none in it".into()));
        }
        Ok(MakeRustlsConnect::new(ClientConfig::builder().with_root_certificates(roots).with_no_client_auth()))
    }
}

/// Undoes `%41`.
fn decoded(text: &str) -> Option<String> {
    let mut parts = text.split('%');
    let mut bytes = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        bytes.push(u8::from_str_radix(part.get(..2)?, 16).ok()?);
        bytes.extend_from_slice(&part.as_bytes()[2..]);
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_read_with_its_parts() {
        let parsed = |url: &str| Address::parse(url).unwrap_or_else(|error| panic!("{url}: {error}"));
        let full = parsed("postgres://me:p%40s?s@db.example:6543/beckon?sslmode=disable");
        let Address { config, roots } = &full;
        assert_eq!((config.get_user(), config.get_dbname()), (Some("me"), Some("beckon")));
        assert_eq!((config.get_password(), roots), (Some(&b"p@s?s"[..]), &None));
        assert_eq!(config.get_ssl_mode(), SslMode::Disable);
        assert_eq!(full.shown(), "db.example:6543/beckon");
        let short = parsed("postgresql://me@[::1]/b");
        assert_eq!((short.shown().as_str(), short.config.get_ssl_mode()), ("::1:5432/b", SslMode::Prefer));
        let roots = parsed("postgres://me@h/b?sslrootcert=/etc/my%20roots.pem&sslmode=require&connect_timeout=1");
        assert_eq!(roots.roots.as_deref(), Some(std::path::Path::new("/etc/my roots.pem")));
        assert_eq!(roots.config.get_ssl_mode(), SslMode::Require);
        assert_eq!(roots.config.get_connect_timeout(), Some(&Duration::from_secs(1)));
        #[cfg(unix)]
        assert_eq!(parsed("postgres://me@/b?host=%2Frun%2Fpg").shown(), "/run/pg:5432/b");
        assert_eq!(parsed("postgres://me@one:1,two:2/b").shown(), "one:1,two:2/b");
    }

    #[test]
    fn an_address_that_is_none_is_refused_and_its_password_is_not_told() {
        for url in [
            "mysql://me:secret@h/b",
            "postgres://me:secret@h",
            "postgres://me:secret@h/",
            "postgres://:secret@h/b",
            "postgres://me:secret/b",
            "postgres://me:sec@secret@h/b",
            "postgres://me:secret@h:x/b",
            "postgres://me@h/b?password=secret",
            "postgres://me@h/b?password=a&secret=x",
            "postgres://me:secret@h/b?sslmode=verify-ca",
            "postgres://me:secret@h/b?sslmode=disable&sslrootcert=x",
            "postgres://me:secret@h/b?sslrootcert=%4",
            "postgres://me:secret@h/b?no_option=x",
        ] {
            let text = Address::parse(url).err().unwrap_or_else(|| panic!("{url} was taken")).to_string();
            assert!(!text.contains("secret") && text.contains("postgres://USER"), "{text}");
        }
        let text = Address::parse("postgres://me:secret@h/b?no_option=x").err().expect("refused").to_string();
        assert!(text.contains("no_option"), "{text}");
    }

    #[test]
    fn roots_that_are_none_are_named() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let path = file.path().display().to_string();
        for (roots, word) in [(path.as_str(), "none in it"), ("/no/such/file.pem", "/no/such/file.pem")] {
            let url = format!("postgres://me:secret@127.0.0.1:9/b?sslrootcert={roots}");
            let text = Address::parse(&url).and_then(|address| address.connect("").map(drop)).expect_err("refused");
            assert!(text.to_string().contains(word) && !text.to_string().contains("secret"), "{text}");
        }
    }
}
