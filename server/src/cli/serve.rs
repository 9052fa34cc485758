//! `beckon serve`: configuration → store → trainer → HTTP, until a signal ends it.

mod settings;

use super::DeviceArg;
use super::device::LentArgs;
use crate::accept::{self, Limits, tls_from_files};
use crate::app::{App, Doors, MAX_IMPORTS, Parts, router};
use crate::assets;
use crate::audit;
use crate::backup::STORAGE_SETTING;
use crate::catalog::Catalog;
use crate::catalog::bucket::Bucket;
use crate::events::Events;
use crate::import::import_bytes;
use crate::limit::{Limiter, Rate};
use crate::priority;
use crate::replica;
use crate::route::checkpoints::compressed::Compressed;
use crate::store::{Store, StoreError};
use crate::telemetry::{Telemetry, start_logging};
use crate::trainer::{Trainer, TrainerParts, run_pipeline};
use anyhow::{Context, bail};
use beckon_shared::import::Format;
use clap::Args;
use settings::Settings;
use std::fs::{File, TryLockError};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

/// Options of `beckon serve`. Each can be typed, set in the environment, or stand in the file that `--config` names; the first
/// of these that names it holds, and then the default.
#[derive(Debug, Args)]
pub struct ServeArgs {
    /// TOML file with settings, named as the options with `_` for `-`.
    #[arg(long, env = "BECKON_CONFIG")]
    pub config: Option<PathBuf>,
    /// Address and port to listen on [default: 127.0.0.1:8020]
    #[arg(long, env = "BECKON_ADDR")]
    pub addr: Option<SocketAddr>,
    /// Folder of the database, runs and checkpoints [default: the platform's folder for application data; with --demo
    /// one beside it, so that simulated clicks do not mix with real ones]
    #[arg(long, env = "BECKON_DATA_DIR")]
    pub data_dir: Option<PathBuf>,
    /// Where runs compute unless their configuration says otherwise [default: auto]
    #[arg(long, env = "BECKON_DEVICE", value_enum)]
    pub device: Option<DeviceArg>,
    #[command(flatten)]
    pub lent: LentArgs,
    /// Open the page in the default browser.
    #[arg(long)]
    pub open: bool,
    /// Fill an empty log with the simulated sample that ships with beckon.
    #[arg(long)]
    pub demo: bool,
    /// Ask for a token also on a loopback address; on any other it is always asked for (see `beckon token`) [default: false]
    #[arg(long, env = "BECKON_REQUIRE_TOKEN", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub require_token: Option<bool>,
    /// Certificate file (PEM, with those above it); HTTPS instead of HTTP.
    #[arg(long, env = "BECKON_TLS_CERT")]
    pub tls_cert: Option<PathBuf>,
    /// Key of the certificate (PEM).
    #[arg(long, env = "BECKON_TLS_KEY")]
    pub tls_key: Option<PathBuf>,
    /// Origin whose pages may use the interface with a token, as `https://example.com`; may be repeated.
    #[arg(long = "allow-origin", env = "BECKON_ALLOW_ORIGIN", value_delimiter = ',')]
    pub origins: Vec<String>,
    /// Requests a second that one sender may make in the long run; five times as many at once [default: 200]
    #[arg(long, env = "BECKON_RATE", value_parser = rate)]
    pub rate: Option<f64>,
    /// Checkpoints to keep beside those that are tagged, parents, or in use; all where it is left out.
    #[arg(long, env = "BECKON_KEEP_CHECKPOINTS")]
    pub keep_checkpoints: Option<usize>,
    /// PostgreSQL database instead of the SQLite file in the data folder, as `postgres://USER:PASSWORD@HOST/DATABASE`; several
    /// servers may share it.
    #[arg(long, env = "BECKON_DATABASE", hide_env_values = true)]
    pub database: Option<String>,
    /// Serve beside another server that trains on the same database and storage: no run is started or steered here [default: false]
    #[arg(long, env = "BECKON_SERVE_ONLY", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub serve_only: Option<bool>,
    /// Bucket that keeps the checkpoints, as `s3://BUCKET/PREFIX`; the data folder is then a cache of them. The key comes from
    /// `AWS_ACCESS_KEY_ID` and `AWS_SECRET_ACCESS_KEY`.
    #[arg(long, env = "BECKON_STORAGE")]
    pub storage: Option<String>,
    /// Server of the bucket, as `http://localhost:9000` [default: `AWS_ENDPOINT_URL_S3`, `AWS_ENDPOINT_URL`, or Amazon's]
    #[arg(long, env = "BECKON_S3_ENDPOINT")]
    pub s3_endpoint: Option<String>,
    /// Region of the bucket [default: `AWS_REGION`, `AWS_DEFAULT_REGION`, or us-east-1]
    #[arg(long, env = "BECKON_S3_REGION")]
    pub s3_region: Option<String>,
    /// Log lines as JSON [default: false]
    #[arg(long, env = "BECKON_LOG_JSON", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub log_json: Option<bool>,
}

/// Wrong tokens that one address may send.
const FAILURES: Rate = Rate { per_sec: 0.2, burst: 10.0 };

fn rate(text: &str) -> Result<f64, String> {
    let rate: f64 = text.parse().map_err(|_| format!("{text} is not a number"))?;
    if rate > 0.0 && rate.is_finite() { Ok(rate) } else { Err(format!("{text} is not above 0")) }
}

/// Serves until SIGINT or SIGTERM, then saves the running stage.
///
/// # Errors
/// In words for people: address not allowed or in use, data folder locked or damaged, no such device.
pub fn serve(args: &ServeArgs) -> anyhow::Result<()> {
    // Burn's pool begins here, by a thread that was not lowered; one that is there already does too
    let _ = rayon::ThreadPoolBuilder::new().thread_name(|i| format!("rayon-{i}")).build_global();
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.enable_all().on_thread_start(priority::lower).build().context("cannot start threads")?;
    runtime.block_on(serve_until_signal(&Settings::resolve(args)?, args.open))
}

async fn serve_until_signal(args: &Settings, open: bool) -> anyhow::Result<()> {
    start_logging(args.log_json);
    let addr = args.addr;
    let tls = args.tls.as_ref().map(|(certificate, key)| tls_from_files(certificate, key)).transpose()?;
    // the port first: it is the quickest to fail, and a second server must not touch the data of the first
    let listener = TcpListener::bind(addr).await.map_err(|error| bind_error(addr, &error))?;
    let addr = listener.local_addr().context("the listener has no address")?;
    let data_dir = args.data_dir.clone().unwrap_or_else(|| match args.demo {
        true => super::default_data_dir().with_file_name("beckon-demo"),
        false => super::default_data_dir(),
    });
    let _lock = lock_folder(&data_dir)?;
    let device = match args.device {
        DeviceArg::Lent => "lent".to_owned(),
        here => crate::model::device::pick_device(here.into())?.1,
    };
    println!("device: {device}");

    // store and storage wait for their answers, and the trainer's thread begins there: so on no thread of the runtime
    let (settings, dir) = (args.clone(), data_dir.clone());
    let opening = std::thread::spawn(move || open_app(&settings, &dir, device));
    let app = opening.join().map_err(|_| anyhow::anyhow!("the start broke off"))??;
    let url = format!("{}://{addr}/", if tls.is_some() { "https" } else { "http" });
    println!("data: {}", data_dir.display());
    println!("page: {url}");
    if open && let Err(error) = open_browser(&url) {
        eprintln!("beckon: cannot open a browser ({error}); open {url} yourself");
    }
    let ending = app.clone();
    let shutdown = async move {
        wait_for_signal().await;
        println!("\nsaving the running stage; a second Ctrl-C ends at once (what was saved before stays)");
        tokio::spawn(async {
            wait_for_signal().await;
            std::process::exit(super::EXIT_INTERRUPTED);
        });
        // without this, open pages would keep the server waiting
        // what waits is stored, which takes a moment
        let _ = tokio::task::spawn_blocking(move || {
            ending.events.close();
            ending.trainer.stop();
        })
        .await;
    };
    accept::serve(listener, tls, router(app.clone()), Limits::default(), shutdown).await;
    tokio::task::spawn_blocking(move || app.trainer.join()).await.context("the trainer did not end well")?;
    Ok(())
}

fn open_app(args: &Settings, data_dir: &Path, device: String) -> anyhow::Result<App> {
    let store = Arc::new(Store::of(args.database.as_deref(), data_dir)?);
    if !args.serve_only && !has_right_to_train(&store)? {
        bail!("another server trains on {}; start this one with --serve-only, or stop that one", store.place());
    }
    if store.is_shared() {
        println!("database: {}", store.place());
    }
    let doors = doors(args, &store, data_dir)?;
    let rejects_dir = data_dir.join("rejects");
    if args.demo && store.n_records()? == 0 {
        let outcome = import_bytes(&store, Format::Jsonl, "sample.jsonl", assets::sample_log()?, &rejects_dir)?;
        println!("demo: {} simulated impressions imported", outcome.n_accepted);
    }
    let built_in = assets::built_in_checkpoint().inspect_err(|error| tracing::error!("{error}")).ok();
    let bucket = args.storage.as_ref().map(Bucket::open).transpose()?;
    if let Some(bucket) = &bucket {
        println!("checkpoints: {}", bucket.url());
    }
    // so that `beckon backup` knows what lies elsewhere
    store.set_setting(STORAGE_SETTING, bucket.as_ref().map_or("", Bucket::url))?;
    let (catalog, refused) = Catalog::open(&data_dir.join("checkpoints"), bucket, &store, built_in)?;
    for error in refused {
        tracing::error!("{error}");
    }
    let catalog = Arc::new(catalog);
    // in microseconds, so that a number of another data folder is not taken for one of this
    let first_seq = u64::try_from(crate::now_millis()).unwrap_or(0) * 1_000;
    let events = Arc::new(Events::open(Arc::clone(&store), first_seq)?);
    let parts = TrainerParts {
        store: Arc::clone(&store),
        events: Arc::clone(&events),
        catalog: Arc::clone(&catalog),
        runs_dir: data_dir.join("runs"),
        lent: args.lent.open()?,
    };
    let trainer = match args.serve_only {
        true => Trainer::elsewhere(parts),
        false => Trainer::start(parts, Box::new(run_pipeline))?,
    };
    if let Some(n_kept) = args.keep_checkpoints {
        trainer.keep_checkpoints(n_kept);
    }
    let app = App::new(Parts {
        store,
        events,
        catalog,
        trainer,
        compressed: Compressed::default(),
        telemetry: Telemetry::default(),
        imports: Arc::new(Semaphore::new(MAX_IMPORTS)),
        rejects_dir,
        default_device: args.device.into(),
        device,
        doors,
        tls: args.tls.is_some(),
    });
    if app.store.is_shared() {
        replica::watch(&app, !args.serve_only);
    }
    Ok(app)
}

/// Takes the right to train; one that a killed server had takes the database a moment to let go.
fn has_right_to_train(store: &Store) -> Result<bool, StoreError> {
    for _ in 0..6 {
        if store.hold_training(audit::process())? {
            return Ok(true);
        }
        std::thread::sleep(std::time::Duration::from_millis(500));
    }
    Ok(false)
}

/// Off loopback nothing starts without a token that opens it.
fn doors(args: &Settings, store: &Store, data_dir: &Path) -> anyhow::Result<Doors> {
    let remote = !args.addr.ip().is_loopback();
    let token_needed = remote || args.require_token;
    let now = crate::now_millis();
    let is_open = |token: &crate::store::StoredToken| token.expires_millis.is_none_or(|end| end > now);
    if token_needed && !store.tokens()?.iter().any(is_open) {
        let dir = data_dir.display();
        let why = if remote { "it can be reached from other machines" } else { "--require-token is given" };
        bail!(
            "{} needs a token, because {why}, and there is none. Make one first:\n  \
             beckon token add NAME --role admin --data-dir {dir}",
            args.addr
        );
    }
    let requests = Rate { per_sec: args.rate, burst: 5.0 * args.rate };
    Ok(Doors {
        remote,
        token_needed,
        origins: args.origins.clone(),
        requests: Limiter::new(requests),
        failures: Limiter::new(FAILURES),
    })
}

fn bind_error(addr: SocketAddr, error: &std::io::Error) -> anyhow::Error {
    match error.kind() {
        std::io::ErrorKind::AddrInUse => anyhow::anyhow!(
            "port {} on {} is in use, perhaps by another beckon. Stop that one, or choose another port: \
             beckon serve --addr {}",
            addr.port(),
            addr.ip(),
            SocketAddr::new(addr.ip(), addr.port().checked_add(1).unwrap_or(8020))
        ),
        std::io::ErrorKind::PermissionDenied => {
            anyhow::anyhow!("port {} needs more rights; choose one above 1023 with --addr", addr.port())
        }
        _ => anyhow::anyhow!("cannot listen on {addr}: {error}"),
    }
}

/// Two servers on one folder would run the same runs, so the second is refused. The lock ends with the process.
fn lock_folder(data_dir: &Path) -> anyhow::Result<File> {
    let shown = data_dir.display();
    std::fs::create_dir_all(data_dir).with_context(|| format!("cannot make the data folder {shown}"))?;
    let lock =
        File::create(data_dir.join("lock")).with_context(|| format!("cannot write to the data folder {shown}"))?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => {
            bail!("another beckon serves {shown}; stop it, or choose another folder with --data-dir")
        }
        Err(TryLockError::Error(error)) => Err(error).with_context(|| format!("cannot lock the data folder {shown}")),
    }
}

/// Returns at SIGINT (Ctrl-C) or SIGTERM.
pub(super) async fn wait_for_signal() {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        match signal(SignalKind::terminate()) {
            Ok(mut terminate) => tokio::select! {
                _ = tokio::signal::ctrl_c() => {}
                _ = terminate.recv() => {}
            },
            Err(_) => _ = tokio::signal::ctrl_c().await,
        }
    }
    #[cfg(not(unix))]
    {
        let _ = tokio::signal::ctrl_c().await;
    }
}

fn open_browser(url: &str) -> std::io::Result<()> {
    let (program, arguments): (&str, &[&str]) = if cfg!(target_os = "macos") {
        ("open", &[url])
    } else if cfg!(windows) {
        ("cmd", &["/c", "start", "", url])
    } else {
        ("xdg-open", &[url])
    };
    let quiet = std::process::Stdio::null;
    std::process::Command::new(program).args(arguments).stdout(quiet()).stderr(quiet()).spawn().map(|_| ())
}
