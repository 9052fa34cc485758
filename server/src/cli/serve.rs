//! `beckon serve`: configuration → store → trainer → HTTP, until a signal ends it.

use super::DeviceArg;
use crate::app::{App, MAX_IMPORTS, Parts, router};
use crate::assets;
use crate::catalog::Catalog;
use crate::events::Events;
use crate::import::import_bytes;
use crate::store::Store;
use crate::trainer::{Trainer, run_pipeline};
use anyhow::{Context, bail};
use beckon_shared::import::Format;
use clap::Args;
use std::fs::{File, TryLockError};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

/// Options of `beckon serve`.
#[derive(Debug, Args)]
pub struct ServeArgs {
    /// Address and port to listen on.
    #[arg(long, default_value = "127.0.0.1:8020")]
    pub addr: SocketAddr,
    /// Folder of the database, runs and checkpoints [default: the platform's folder for application data; with --demo
    /// one beside it, so that simulated clicks do not mix with real ones]
    #[arg(long)]
    pub data_dir: Option<PathBuf>,
    /// Where runs compute unless their configuration says otherwise.
    #[arg(long, value_enum, default_value_t = DeviceArg::Auto)]
    pub device: DeviceArg,
    /// Open the page in the default browser.
    #[arg(long)]
    pub open: bool,
    /// Fill an empty log with the simulated sample that ships with beckon.
    #[arg(long)]
    pub demo: bool,
    /// Listen on an address that other machines can reach, although beckon has no authentication yet.
    #[arg(long)]
    pub allow_remote: bool,
}

/// Serves until SIGINT or SIGTERM, then saves the running stage.
///
/// # Errors
/// In words for people: address not allowed or in use, data folder locked or damaged, no such device.
pub fn serve(args: &ServeArgs) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start threads")?;
    runtime.block_on(serve_until_signal(args))
}

async fn serve_until_signal(args: &ServeArgs) -> anyhow::Result<()> {
    let addr = args.addr;
    if !addr.ip().is_loopback() && !args.allow_remote {
        bail!(
            "{addr} can be reached from other machines, and beckon has no authentication yet: whoever connects can read the \
             log and start runs. Give --allow-remote to do it all the same, or put a proxy with a login in front."
        );
    }
    // the port first: it is the quickest to fail, and a second server must not touch the data of the first
    let listener = TcpListener::bind(addr).await.map_err(|error| bind_error(addr, &error))?;
    let addr = listener.local_addr().context("the listener has no address")?;
    let data_dir = args.data_dir.clone().unwrap_or_else(|| match args.demo {
        true => super::default_data_dir().with_file_name("beckon-demo"),
        false => super::default_data_dir(),
    });
    let _lock = lock_folder(&data_dir)?;
    let (_, device) = crate::model::device::pick_device(args.device.into())?;
    println!("device: {device}");

    let app = open_app(args, &data_dir, device)?;
    let url = format!("http://{addr}/");
    println!("data: {}", data_dir.display());
    println!("page: {url}");
    if args.open
        && let Err(error) = open_browser(&url)
    {
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
        ending.events.close();
        ending.trainer.stop();
    };
    axum::serve(listener, router(app.clone())).with_graceful_shutdown(shutdown).await.context("the server ended")?;
    tokio::task::spawn_blocking(move || app.trainer.join()).await.context("the trainer did not end well")?;
    Ok(())
}

fn open_app(args: &ServeArgs, data_dir: &Path, device: String) -> anyhow::Result<App> {
    let store = Arc::new(Store::open(&data_dir.join("beckon.sqlite"))?);
    let rejects_dir = data_dir.join("rejects");
    if args.demo && store.n_records()? == 0 {
        let outcome = import_bytes(&store, Format::Jsonl, "sample.jsonl", assets::sample_log()?, &rejects_dir)?;
        println!("demo: {} simulated impressions imported", outcome.n_accepted);
    }
    let built_in = assets::built_in_checkpoint().inspect_err(|error| eprintln!("beckon: {error}")).ok();
    let (catalog, refused) = Catalog::open(&data_dir.join("checkpoints"), &store, built_in)?;
    for error in refused {
        eprintln!("beckon: {error}");
    }
    let catalog = Arc::new(catalog);
    // in microseconds, so that the numbers of a restarted server are ahead of those of the one before
    let events = Arc::new(Events::new(u64::try_from(crate::now_millis()).unwrap_or(0) * 1_000));
    let trainer = Trainer::start(
        Arc::clone(&store),
        Arc::clone(&events),
        Arc::clone(&catalog),
        data_dir.join("runs"),
        Box::new(run_pipeline),
    )?;
    Ok(App::new(Parts {
        store,
        events,
        catalog,
        trainer,
        imports: Arc::new(Semaphore::new(MAX_IMPORTS)),
        rejects_dir,
        default_device: args.device.into(),
        device,
        allow_remote: args.allow_remote,
    }))
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
