//! `beckon token`: who may use a server. Works on the data folder, also while a server runs on it, or through a server.

use super::remote::FarArgs;
use crate::remote::{Remote, RemoteError};
use crate::route::tokens::{NewToken, TokenInfo, TokenWish, token_from_wish};
use crate::store::Store;
use anyhow::{Context, bail};
use beckon_shared::control::access::Role;
use beckon_shared::control::command::segment;
use clap::{Args, Subcommand};
use std::path::PathBuf;

/// Options of `beckon token`.
#[derive(Debug, Args)]
pub struct TokenArgs {
    /// Folder of the database, where no server is named [default: the platform's folder for application data]
    #[arg(long, global = true, env = "BECKON_DATA_DIR")]
    pub data_dir: Option<PathBuf>,
    /// PostgreSQL database of the server, where it has one; the data folder then says nothing.
    #[arg(long, global = true, env = "BECKON_DATABASE", hide_env_values = true)]
    pub database: Option<String>,
    #[command(flatten)]
    far: FarArgs,
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
    /// Remove a token; its holder is out at once, and streams that it opened end within 15 s.
    Remove {
        /// Name of the token.
        name: String,
    },
}

fn role(text: &str) -> Result<Role, String> {
    Role::from_name(text).ok_or_else(|| format!("{text} is not viewer, operator or admin"))
}

/// Who keeps the tokens.
enum Tokens {
    Here(Box<Store>),
    There(Remote),
}

impl Tokens {
    fn of(args: &TokenArgs) -> anyhow::Result<Self> {
        if let Some(remote) = args.far.open()? {
            return Ok(Self::There(remote));
        }
        let data_dir = args.data_dir.clone().unwrap_or_else(super::default_data_dir);
        Ok(Self::Here(Box::new(Store::of(args.database.as_deref(), &data_dir)?)))
    }

    /// Makes one; its text.
    fn add(&self, wish: &TokenWish) -> anyhow::Result<String> {
        let name = &wish.name;
        match self {
            Self::Here(store) => {
                let (text, stored) =
                    token_from_wish(wish, crate::now_millis()).map_err(|error| anyhow::anyhow!("{}", error.detail()))?;
                if !store.add_token(&stored)? {
                    bail!("there is a token named {name}; remove it first or take another name");
                }
                Ok(text)
            }
            Self::There(remote) => match remote.post_once::<NewToken>("/api/tokens", wish) {
                Ok(NewToken { token, .. }) => Ok(token),
                Err(error @ RemoteError::NoAnswer { .. }) => Err(error).context(format!(
                    "{name} may have been made; look (`beckon token list`), and where it was, remove it and make it again"
                )),
                Err(error) => Err(error.into()),
            },
        }
    }

    /// All, oldest first.
    fn list(&self) -> anyhow::Result<Vec<TokenInfo>> {
        Ok(match self {
            Self::Here(store) => store.tokens()?.into_iter().map(TokenInfo::from).collect(),
            Self::There(remote) => remote.list("/api/tokens", None)?,
        })
    }

    fn remove(&self, name: &str) -> anyhow::Result<()> {
        match self {
            Self::Here(store) if !store.remove_token(name)? => bail!("there is no token named {name}"),
            Self::Here(_) => Ok(()),
            Self::There(remote) => Ok(remote.delete(&format!("/api/tokens/{}", segment(name)))?),
        }
    }
}

/// Makes, lists or removes.
///
/// # Errors
/// In words for people: a name that is taken or not there, a store that cannot be opened, what a server refuses.
pub fn token(args: &TokenArgs) -> anyhow::Result<()> {
    let tokens = Tokens::of(args)?;
    match &args.action {
        Action::Add { name, role, days } => {
            let text = tokens.add(&TokenWish { name: name.clone(), role: *role, days: *days })?;
            eprintln!("token of {name}, {}; it cannot be shown again:", role.name());
            println!("{text}");
        }
        Action::List => {
            for token in tokens.list()? {
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
            tokens.remove(name)?;
            println!("removed {name}");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::tests::open_doors;
    use crate::remote::tests::Loopback;

    #[test]
    fn tokens_are_made_listed_and_removed_through_a_server_as_in_its_folder() {
        let server = Loopback::start(open_doors());
        let dir = tempfile::tempdir().expect("a folder for the test");
        let there = Tokens::There(server.client(None));
        let here = Tokens::Here(Box::new(Store::of(None, dir.path()).expect("opens")));
        for tokens in [&there, &here] {
            let wish = |days| TokenWish { name: "ann lee/2".into(), role: Role::Viewer, days };
            let text = tokens.add(&wish(Some(2))).expect("made");
            assert!(text.starts_with("bk_"), "{text}");
            let names: Vec<(String, Role)> =
                tokens.list().expect("read").into_iter().map(|token| (token.name, token.role)).collect();
            assert_eq!(names, [("ann lee/2".to_owned(), Role::Viewer)]);
            for (refused, why) in
                [(tokens.add(&wish(None)), "remove it first"), (tokens.add(&wish(Some(0))), "days is 1")]
            {
                let error = refused.expect_err("refused").to_string();
                assert!(error.contains(why), "{error}");
            }
            tokens.remove("ann lee/2").expect("removed");
            let error = tokens.remove("ann lee/2").expect_err("gone").to_string();
            assert_eq!(error, "there is no token named ann lee/2");
        }
    }
}
