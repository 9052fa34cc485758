//! Settings of `beckon serve` from four places. What is typed comes first, then the environment, then the file, then the
//! default; each setting by itself. Flags and environment are one struct ([`ServeArgs`], filled by clap in that order), the
//! file has the same names with `_` for `-`, and a key that it does not know is refused by name.

use super::{ServeArgs, rate};
use crate::catalog::bucket::Address;
use crate::cli::DeviceArg;
use crate::cli::device::LentArgs;
use anyhow::Context;
use serde::{Deserialize, Deserializer};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

/// Where nothing else is said.
const DEFAULT_ADDR: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8020);
const DEFAULT_RATE: f64 = 200.0;

/// What a file may say.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct SettingsFile {
    addr: Option<SocketAddr>,
    data_dir: Option<PathBuf>,
    device: Option<DeviceArg>,
    lent_device: Option<Vec<String>>,
    demo: Option<bool>,
    require_token: Option<bool>,
    tls_cert: Option<PathBuf>,
    tls_key: Option<PathBuf>,
    allow_origin: Option<Vec<String>>,
    #[serde(deserialize_with = "rate_of")]
    rate: Option<f64>,
    keep_checkpoints: Option<usize>,
    database: Option<String>,
    serve_only: Option<bool>,
    storage: Option<String>,
    s3_endpoint: Option<String>,
    s3_region: Option<String>,
    log_json: Option<bool>,
}

fn rate_of<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<f64>, D::Error> {
    let value = f64::deserialize(deserializer)?;
    rate(&value.to_string()).map(Some).map_err(serde::de::Error::custom)
}

/// Every setting, decided.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// Address and port.
    pub addr: SocketAddr,
    /// Folder of the database, runs and checkpoints; `None`: the platform's.
    pub data_dir: Option<PathBuf>,
    /// Where runs compute.
    pub device: DeviceArg,
    /// What runs may borrow.
    pub lent: LentArgs,
    /// Fill an empty log with the sample.
    pub demo: bool,
    /// Ask for a token everywhere.
    pub require_token: bool,
    /// Certificate and key.
    pub tls: Option<(PathBuf, PathBuf)>,
    /// Listed origins.
    pub origins: Vec<String>,
    /// Requests a second of one sender.
    pub rate: f64,
    /// Checkpoints to keep; all where there is none.
    pub keep_checkpoints: Option<usize>,
    /// PostgreSQL database; `None`: SQLite in the data folder.
    pub database: Option<String>,
    /// Another server trains.
    pub serve_only: bool,
    /// Where checkpoints are kept beside the data folder.
    pub storage: Option<Address>,
    /// Log lines as JSON.
    pub log_json: bool,
}

impl Settings {
    /// Joins what was typed (or is in the environment) with the file that it names.
    ///
    /// # Errors
    /// The file cannot be read, or holds something that is no setting; a certificate without its key, or the other way round.
    pub fn resolve(args: &ServeArgs) -> anyhow::Result<Self> {
        let file = args.config.as_deref().map_or(Ok(SettingsFile::default()), read)?;
        let tls_cert = args.tls_cert.clone().or(file.tls_cert);
        let tls_key = args.tls_key.clone().or(file.tls_key);
        let tls = match (tls_cert, tls_key) {
            (Some(certificate), Some(key)) => Some((certificate, key)),
            (None, None) => None,
            (Some(_), None) => anyhow::bail!("tls_cert is set and tls_key is not; HTTPS needs both"),
            (None, Some(_)) => anyhow::bail!("tls_key is set and tls_cert is not; HTTPS needs both"),
        };
        let storage = args.storage.clone().or(file.storage).map(|url| Address {
            url,
            endpoint: args.s3_endpoint.clone().or(file.s3_endpoint),
            region: args.s3_region.clone().or(file.s3_region),
        });
        let database = args.database.clone().or(file.database);
        let serve_only = args.serve_only.or(file.serve_only).unwrap_or(false);
        if serve_only && (database.is_none() || storage.is_none()) {
            anyhow::bail!("serve_only needs the database and the storage that it shares with the server that trains");
        }
        let origins = Some(args.origins.clone()).filter(|typed| !typed.is_empty()).or(file.allow_origin);
        Ok(Self {
            addr: args.addr.or(file.addr).unwrap_or(DEFAULT_ADDR),
            data_dir: args.data_dir.clone().or(file.data_dir),
            device: args.device.or(file.device).unwrap_or(DeviceArg::Auto),
            lent: args.lent.or(file.lent_device),
            demo: args.demo || file.demo.unwrap_or(false),
            require_token: args.require_token.or(file.require_token).unwrap_or(false),
            tls,
            origins: origins.unwrap_or_default(),
            rate: args.rate.or(file.rate).unwrap_or(DEFAULT_RATE),
            keep_checkpoints: args.keep_checkpoints.or(file.keep_checkpoints),
            database,
            serve_only,
            storage,
            log_json: args.log_json.or(file.log_json).unwrap_or(false),
        })
    }
}

/// Reads a file; paths in it are relative to its folder.
fn read(path: &Path) -> anyhow::Result<SettingsFile> {
    let shown = path.display();
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read the settings in {shown}"))?;
    let mut file: SettingsFile = toml::from_str(&text).with_context(|| format!("settings in {shown}"))?;
    let folder = path.parent().unwrap_or(Path::new(""));
    for path in [&mut file.data_dir, &mut file.tls_cert, &mut file.tls_key].into_iter().flatten() {
        *path = folder.join(&path);
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Typed {
        #[command(flatten)]
        args: ServeArgs,
    }

    fn resolve(text: &str, typed: &[&str]) -> anyhow::Result<Settings> {
        let dir = tempfile::tempdir().expect("a folder for the test");
        let path = dir.path().join("beckon.toml");
        std::fs::write(&path, text).expect("written");
        let path = path.to_str().expect("text").to_owned();
        let typed = ["serve", "--config", &path].into_iter().chain(typed.iter().copied());
        let settings = Settings::resolve(&Typed::try_parse_from(typed)?.args)?;
        // paths are relative to the file
        if let Some(data_dir) = &settings.data_dir {
            assert!(data_dir.is_absolute(), "{}", data_dir.display());
        }
        Ok(settings)
    }

    fn refusal(text: &str) -> String {
        format!("{:#}", resolve(text, &[]).expect_err("it should be refused"))
    }

    #[test]
    fn what_is_typed_comes_before_the_file_and_the_file_before_the_default() {
        let file = "addr = \"127.0.0.1:9000\"\nrate = 7\nrequire_token = true\nallow_origin = [\"https://a.example\"]\n\
                    data_dir = \"here\"\nkeep_checkpoints = 3\nstorage = \"s3://a/b\"\ns3_region = \"eu-1\"\n";
        let of_file = resolve(file, &[]).expect("settings");
        assert_eq!((of_file.addr.port(), of_file.rate, of_file.require_token), (9000, 7.0, true));
        assert_eq!(
            (of_file.origins.as_slice(), of_file.keep_checkpoints),
            (["https://a.example".to_owned()].as_slice(), Some(3))
        );
        // what the file leaves out is the default
        assert_eq!((of_file.device, of_file.log_json), (DeviceArg::Auto, false));
        let address = |endpoint: Option<&str>| {
            let endpoint = endpoint.map(str::to_owned);
            Some(Address { url: "s3://a/b".to_owned(), endpoint, region: Some("eu-1".to_owned()) })
        };
        assert_eq!(of_file.storage, address(None));
        let typed = [
            ["--addr", "127.0.0.1:1234"],
            ["--require-token=false", "--s3-endpoint=http://localhost:9000"],
            ["--allow-origin", "https://b.example"],
        ];
        let typed = resolve(file, typed.as_flattened()).expect("settings");
        assert_eq!(typed.storage, address(Some("http://localhost:9000")));
        assert_eq!((typed.addr.port(), typed.require_token, typed.rate), (1234, false, 7.0));
        assert_eq!(typed.origins, ["https://b.example"]);
    }

    #[test]
    fn unknown_keys_and_bad_values_are_refused_by_name() {
        let text = refusal("adr = \"127.0.0.1:9000\"\n");
        assert!(text.contains("`adr`") && text.contains("beckon.toml"), "{text}");
        for (bad, word) in
            [("rate = 0", "above 0"), ("device = \"tpu\"", "tpu"), ("addr = \"nowhere\"", "addr"), ("=", "line 1")]
        {
            let text = refusal(bad);
            assert!(text.contains(word), "{bad}: {text}");
        }
        assert!(refusal("tls_cert = \"c.pem\"").contains("tls_key"));
        assert!(refusal("serve_only = true\nstorage = \"s3://a\"").contains("database"));
        assert!(refusal("serve_only = true\ndatabase = \"postgres://u@h/d\"").contains("storage"));
        let missing = Typed::try_parse_from(["serve", "--config", "/no/such/file.toml"]).expect("parsed").args;
        assert!(format!("{:#}", Settings::resolve(&missing).expect_err("none")).contains("/no/such/file.toml"));
    }
}
