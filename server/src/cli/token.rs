//! `beckon token`: who may use a server. Works on the data folder, also while a server runs on it.

use crate::route::tokens::{TokenWish, token_from_wish};
use crate::store::Store;
use anyhow::bail;
use beckon_shared::control::access::Role;
use clap::{Args, Subcommand};
use std::path::PathBuf;

/// Options of `beckon token`.
#[derive(Debug, Args)]
pub struct TokenArgs {
    /// Folder of the database [default: the platform's folder for application data]
    #[arg(long, global = true, env = "BECKON_DATA_DIR")]
    pub data_dir: Option<PathBuf>,
    /// PostgreSQL database of the server, where it has one; the data folder then says nothing.
    #[arg(long, global = true, env = "BECKON_DATABASE", hide_env_values = true)]
    pub database: Option<String>,
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Make a token and print it; it cannot be shown again.
    Add {
        /// For people; unique.
        name: String,
        /// viewer (looks), operator (steers) or admin (everything).
        #[arg(long, value_parser = role)]
        role: Role,
        /// Days until it ends; never where it is left out.
        #[arg(long)]
        days: Option<u32>,
    },
    /// Names, roles and ends, without secrets.
    List,
    /// Remove a token; its holder is out at once.
    Remove {
        /// Name of the token.
        name: String,
    },
}

fn role(text: &str) -> Result<Role, String> {
    Role::from_name(text).ok_or_else(|| format!("{text} is not viewer, operator or admin"))
}

/// Makes, lists or removes.
///
/// # Errors
/// In words for people: a name that is taken or not there, a store that cannot be opened.
pub fn token(args: &TokenArgs) -> anyhow::Result<()> {
    let data_dir = args.data_dir.clone().unwrap_or_else(super::default_data_dir);
    let store = Store::of(args.database.as_deref(), &data_dir)?;
    match &args.action {
        Action::Add { name, role, days } => {
            let wish = TokenWish { name: name.clone(), role: *role, days: *days };
            let (text, stored) =
                token_from_wish(&wish, crate::now_millis()).map_err(|error| anyhow::anyhow!("{}", error.detail()))?;
            if !store.add_token(&stored)? {
                bail!("there is a token named {name}; remove it first or take another name");
            }
            eprintln!("token of {name}, {}; it cannot be shown again:", role.name());
            println!("{text}");
        }
        Action::List => {
            for token in store.tokens()? {
                let now = crate::now_millis();
                let end = match token.expires_millis {
                    None => "never ends".to_owned(),
                    Some(end) if end <= now => "has expired".to_owned(),
                    Some(end) => format!("ends in {} days", (end - now) / 86_400_000),
                };
                println!("{}\t{}\t{end}", token.name, token.role.name());
            }
        }
        Action::Remove { name } => {
            if !store.remove_token(name)? {
                bail!("there is no token named {name}");
            }
            println!("removed {name}");
        }
    }
    Ok(())
}
