//! `beckon device`: what this machine can train on, and lending it to runs elsewhere.

use super::DeviceArg;
use crate::model::device::{adapters, pick_device};
use crate::model::lent::{Lender, Lent, LentError};
use anyhow::bail;
use clap::{Args, Subcommand};
use std::net::SocketAddr;
use std::path::PathBuf;

/// Environment variable of the token, for both sides.
const TOKEN_VARIABLE: &str = "BECKON_DEVICE_TOKEN";

/// Options of `beckon device`.
#[derive(Debug, Args)]
pub struct DeviceArgs {
    #[command(subcommand)]
    command: DeviceCommand,
}

#[derive(Debug, Subcommand)]
enum DeviceCommand {
    /// What this machine can train on.
    List,
    /// Let runs of another process or machine compute here, until Ctrl-C.
    Lend(LendArgs),
}

/// Options of `beckon device lend`. The token that opens it comes from `BECKON_DEVICE_TOKEN`.
#[derive(Debug, Args)]
struct LendArgs {
    /// Address and port to listen on.
    #[arg(long, default_value = "127.0.0.1:8021")]
    addr: SocketAddr,
    /// What to lend.
    #[arg(long, value_enum, default_value = "auto")]
    device: DeviceArg,
    /// Encrypt (Iroh, over UDP), with the key in this file, which is made where it is missing; without it the connection is in
    /// the clear (WebSocket).
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
}

/// Devices that a command's runs may borrow. Their token comes from `BECKON_DEVICE_TOKEN`.
#[derive(Debug, Clone, PartialEq, Default, Args)]
pub struct LentArgs {
    /// A device that another process lends, as `beckon device lend` shows it; may be repeated. Runs use it where their
    /// configuration has n_devices above 1 or device \"lent\".
    #[arg(long = "lent-device", value_name = "URL", env = "BECKON_LENT_DEVICE", value_delimiter = ',')]
    urls: Vec<String>,
}

impl LentArgs {
    /// These, or the file's where none are typed.
    pub fn or(&self, file: Option<Vec<String>>) -> Self {
        match &self.urls[..] {
            [] => Self { urls: file.unwrap_or_default() },
            _ => self.clone(),
        }
    }

    /// The devices; none is connected yet.
    ///
    /// # Errors
    /// An address that is none, a token that is too short.
    pub fn open(&self) -> Result<Lent, LentError> {
        Lent::new(&self.urls, token().as_deref())
    }
}

fn token() -> Option<String> {
    std::env::var(TOKEN_VARIABLE).ok().filter(|token| !token.is_empty())
}

/// Runs a subcommand.
///
/// # Errors
/// In words for people.
pub fn device(args: &DeviceArgs) -> anyhow::Result<()> {
    match &args.command {
        DeviceCommand::List => {
            let (_, chosen) = pick_device(DeviceArg::Auto.into())?;
            println!("cpu: Burn flex");
            for adapter in adapters() {
                let software = if adapter.is_software() { " (software: slower than cpu)" } else { "" };
                println!("gpu: {}, {}{software}", adapter.name, adapter.backend);
            }
            println!("auto takes: {chosen}");
            Ok(())
        }
        DeviceCommand::Lend(args) => lend(args),
    }
}

fn lend(args: &LendArgs) -> anyhow::Result<()> {
    if matches!(args.device, DeviceArg::Lent) {
        bail!("a lent device cannot be lent again; choose auto, cpu or gpu");
    }
    let (device, name) = pick_device(args.device.into())?;
    let lender = Lender::bind(device, args.addr, args.key.as_deref(), token().as_deref())?;
    println!("device: {name}");
    println!("lent at: {}", lender.url());
    println!("use it there: beckon serve --lent-device {}", lender.url());
    Ok(lender.serve()?)
}
