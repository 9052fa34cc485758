//! Devices that other processes lend, by Burn's remote protocol.
//!
//! In the loop: a server on a machine without a GPU trains on one that has one, or splits each step over several machines
//! ([`super::parallel`]). A lender ([`Lender`], `beckon device lend`) carries out tensor operations for whoever has its token; the
//! run itself, with its log, its state and its optimiser's orders, stays with the borrower ([`Lent`], `--lent-device`). Operations
//! go out as they are asked for and only what is read comes back.
//!
//! There are two ways between them, both Burn's: `ws://HOST:PORT` (WebSocket, in the clear: for one machine, or a network that
//! is trusted) and `iroh://ID@HOST:PORT` (Iroh: QUIC over UDP, encrypted, the lender known by its key). No relay of Iroh's is used.

use burn::backend::{Cube, DispatchDevice, Flex};
use burn::remote::{IrohHost, IrohRelays, RemoteHost};
use burn::tensor::Device;
use burn_remote::server::{
    AuthorizationRequest, BackendServer, IrohIdentity, IrohTransport, PeerAuthorizer, ServeError, Transport,
    WebSocketTransport,
};
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use subtle::ConstantTimeEq;

/// Fewest characters of a token.
const MIN_TOKEN_CHARS: usize = 16;

/// Why a device cannot be lent or borrowed.
#[derive(Debug, thiserror::Error)]
pub enum LentError {
    /// No such address.
    #[error(
        "{url} is no address of a lent device: {reason}; write ws://HOST:PORT or iroh://ID@HOST:PORT, as `beckon device lend` shows it"
    )]
    Address {
        /// What was given.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The token cannot protect anything.
    #[error(
        "the token of lent devices has fewer than {MIN_TOKEN_CHARS} characters; make one with `openssl rand -hex 32`"
    )]
    ShortToken,
    /// Anyone could compute.
    #[error(
        "{addr} can be reached from other machines, so a token is needed: set BECKON_DEVICE_TOKEN here and where it is used"
    )]
    NoToken {
        /// Where the lender would listen.
        addr: SocketAddr,
    },
    /// The lender does not answer, or refuses.
    #[error(
        "no device from {url}: {reason}; is `beckon device lend` running there, with the same token and the same version?"
    )]
    Connect {
        /// Which lender.
        url: String,
        /// What Burn says.
        reason: String,
    },
    /// The lender cannot listen.
    #[error("cannot lend a device on {addr}: {reason}")]
    Listen {
        /// Where.
        addr: SocketAddr,
        /// What the system says.
        reason: String,
    },
}

/// Where a lender is, and the session with it.
#[derive(Debug)]
struct Address {
    url: String,
    host: RemoteHost,
    device: Mutex<Option<Device>>,
}

impl Address {
    fn parse(url: &str) -> Result<Self, LentError> {
        let wrong = |reason: String| LentError::Address { url: url.to_owned(), reason };
        let host = if let Some(rest) = url.strip_prefix("ws://") {
            let (name, port) = rest.rsplit_once(':').ok_or_else(|| wrong("it has no port".into()))?;
            port.parse::<u16>().map_err(|_| wrong(format!("{port:?} is no port")))?;
            if name.is_empty() || name.contains(['/', '@', '?', '#']) {
                return Err(wrong(format!("{name:?} is no host")));
            }
            RemoteHost::websocket(url)
        } else if let Some(rest) = url.strip_prefix("iroh://") {
            let (id, at) = rest.split_once('@').ok_or_else(|| wrong("it has no @ behind the lender's id".into()))?;
            let id: burn::remote::EndpointId = id.parse().map_err(|error| wrong(format!("the id: {error}")))?;
            let addresses = at.to_socket_addrs().map_err(|error| wrong(format!("{at}: {error}")))?;
            let host = IrohHost::new(id).with_relays(IrohRelays::Disabled);
            RemoteHost::iroh(addresses.fold(host, IrohHost::with_address))
        } else {
            return Err(wrong("it begins with neither ws:// nor iroh://".into()));
        };
        Ok(Self { url: url.to_owned(), host, device: Mutex::default() })
    }
}

/// The devices that a process may borrow.
#[derive(Debug, Clone, Default)]
pub struct Lent {
    addresses: Arc<[Address]>,
    token: String,
}

impl Lent {
    /// One device of each lender. Nothing is asked of them yet.
    ///
    /// # Errors
    /// [`LentError::Address`], [`LentError::ShortToken`].
    pub fn new(urls: &[String], token: Option<&str>) -> Result<Self, LentError> {
        check_token(token)?;
        let addresses = urls.iter().map(|url| Address::parse(url)).collect::<Result<_, _>>()?;
        Ok(Self { addresses, token: token.unwrap_or_default().to_owned() })
    }

    /// Devices.
    pub fn n_devices(&self) -> usize {
        self.addresses.len()
    }

    /// Connects the first `n`, each with its address. A session is kept for the next run.
    ///
    /// # Errors
    /// [`LentError::Connect`].
    ///
    /// # Panics
    /// If there are fewer than `n`.
    pub fn borrow(&self, n: usize) -> Result<Vec<(Device, String)>, LentError> {
        static SESSIONS: AtomicU64 = AtomicU64::new(0);
        let connect = |address: &Address| {
            let mut known = address.device.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(device) = known.as_ref().filter(|device| device.sync().is_ok()) {
                return Ok((device.clone(), address.url.clone()));
            }
            // Burn takes devices with the same address and credential for one, whose session it keeps even when it is lost
            let session = SESSIONS.fetch_add(1, Ordering::Relaxed);
            let host = address.host.clone().with_credential(format!("{} {session}", self.token));
            let device = Device::remote_options(&host).init();
            let failed = |reason: String| LentError::Connect { url: address.url.clone(), reason };
            let device = device.map_err(|error| failed(error.to_string()))?;
            *known = Some(device.clone());
            Ok((device, address.url.clone()))
        };
        self.addresses[..n].iter().map(connect).collect()
    }
}

fn check_token(token: Option<&str>) -> Result<(), LentError> {
    match token {
        Some(token) if token.chars().count() < MIN_TOKEN_CHARS => Err(LentError::ShortToken),
        _ => Ok(()),
    }
}

/// Lends one device of this machine.
pub struct Lender {
    device: Device,
    transport: Transport,
    token: String,
    url: String,
}

impl Lender {
    /// Takes the port. With `key`, the file of the lender's key (made where it is missing), connections are encrypted (Iroh), and
    /// every address of the machine is listened on; else it is a WebSocket at `addr`.
    ///
    /// # Errors
    /// [`LentError::ShortToken`], `NoToken`, `Listen`.
    pub fn bind(device: Device, addr: SocketAddr, key: Option<&Path>, token: Option<&str>) -> Result<Self, LentError> {
        check_token(token)?;
        let is_open = key.is_some() || !addr.ip().is_loopback();
        if is_open && token.is_none() {
            return Err(LentError::NoToken { addr });
        }
        let failed = |error: std::io::Error| LentError::Listen { addr, reason: error.to_string() };
        let (transport, url) = match key {
            Some(key) => {
                let identity = IrohIdentity::load_or_create(key).map_err(failed)?;
                let url = format!("iroh://{}@{addr}", identity.id());
                let transport = IrohTransport::new(identity).with_relays(IrohRelays::Disabled).with_port(addr.port());
                (transport.into(), url)
            }
            None => {
                let listener = std::net::TcpListener::bind(addr).map_err(failed)?;
                let addr = listener.local_addr().map_err(failed)?;
                (WebSocketTransport::from_listener(listener).into(), format!("ws://{addr}"))
            }
        };
        Ok(Self { device, transport, token: token.unwrap_or_default().to_owned(), url })
    }

    /// What a borrower is given.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Lends until SIGINT or SIGTERM.
    ///
    /// # Errors
    /// What Burn says.
    ///
    /// # Panics
    /// If the device is itself lent.
    pub fn serve(self) -> Result<(), ServeError> {
        let authorizer = asks_for(self.token);
        match self.device.as_dispatch() {
            DispatchDevice::Flex(device) => {
                BackendServer::<Flex>::new([*device]).with_authorizer(authorizer).serve(self.transport)
            }
            DispatchDevice::Cube(device) => {
                BackendServer::<Cube>::new([device.clone()]).with_authorizer(authorizer).serve(self.transport)
            }
            other => panic!("{other:?} is no device of this machine"),
        }
    }
}

fn asks_for(token: String) -> impl PeerAuthorizer {
    move |request: AuthorizationRequest<'_>| {
        let given = request.credential.as_bytes();
        // behind the last space is the number of the session
        let end = given.iter().rposition(|byte| *byte == b' ').unwrap_or(given.len());
        match bool::from(given[..end].ct_eq(token.as_bytes())) {
            true => Ok(()),
            false => Err(format!("{} has another token", request.client)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: &str = "0123456789abcdef";

    fn here() -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], 0))
    }

    /// A lender on a thread of its own, which ends with the tests' process.
    fn lend(token: Option<&str>) -> String {
        let lender = Lender::bind(Device::flex(), here(), None, token).expect("bound");
        let url = lender.url().to_owned();
        std::thread::spawn(move || lender.serve());
        url
    }

    #[test]
    fn a_lent_device_computes_what_the_own_one_does() {
        let url = lend(Some(TOKEN));
        let lent = Lent::new(&[url], Some(TOKEN)).expect("address");
        let (device, _) = lent.borrow(1).expect("a device").remove(0);
        assert_ne!(device, Device::flex());
        let gradient = |device: &Device| {
            let x = burn::tensor::Tensor::<1>::from_floats([1.0, 2.0], &device.clone().autodiff()).require_grad();
            let loss = (x.clone() * x.clone()).sum();
            x.grad(&loss.backward()).expect("a gradient").into_data().try_into_vec::<f32>().expect("f32")
        };
        assert_eq!(gradient(&device), [2.0, 4.0]);
        assert_eq!(gradient(&device), gradient(&Device::flex()));
        assert_eq!(lent.borrow(1).expect("the same session")[0].0, device);
    }

    #[test]
    fn another_token_is_refused_and_not_told() {
        let url = lend(Some(TOKEN));
        for wrong in [None, Some("another-token-of-some-length")] {
            let lent = Lent::new(std::slice::from_ref(&url), wrong).expect("address");
            let text = lent.borrow(1).expect_err("refused").to_string();
            assert!(text.contains(&url) && text.contains("token"), "{text}");
            assert!(!text.contains("another-token"), "{text}");
        }
    }

    #[test]
    fn off_loopback_nothing_is_lent_without_a_token() {
        let anywhere = SocketAddr::from(([0, 0, 0, 0], 0));
        let bind = |token| Lender::bind(Device::flex(), anywhere, None, token).err();
        assert!(matches!(bind(None), Some(LentError::NoToken { .. })));
        assert!(matches!(bind(Some("short")), Some(LentError::ShortToken)));
        assert!(bind(Some(TOKEN)).is_none());
        let key = tempfile::tempdir().expect("folder");
        let encrypted = Lender::bind(Device::flex(), here(), Some(&key.path().join("key")), None);
        assert!(matches!(encrypted.err(), Some(LentError::NoToken { .. })), "Iroh listens everywhere");
    }

    #[test]
    fn an_address_that_is_none_is_refused() {
        for url in ["http://h:1", "ws://h", "ws://h:x", "ws://:1", "ws://h/p:1", "iroh://h:1", "iroh://abc@127.0.0.1:1"]
        {
            let text = Lent::new(&[url.to_owned()], None).expect_err(url).to_string();
            assert!(text.contains(url) && text.contains("ws://HOST:PORT"), "{text}");
        }
    }
}
