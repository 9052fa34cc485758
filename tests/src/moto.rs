//! Moto, a server from PyPI that speaks S3, as a child process with one bucket.

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// A running server; ended when dropped, and everything in it is gone then.
pub struct Moto {
    child: Child,
    /// `http://127.0.0.1:PORT`.
    pub url: String,
    agent: ureq::Agent,
}

/// The key that a client needs, of which Moto only looks at the form: it checks no signature.
pub const KEY: [(&str, &str); 2] = [("AWS_ACCESS_KEY_ID", "beckon-test"), ("AWS_SECRET_ACCESS_KEY", "not-a-secret")];
/// Its bucket.
pub const BUCKET: &str = "lab";

impl Moto {
    /// Starts the program that `BECKON_MOTO` names, on a free port.
    ///
    /// # Panics
    /// When it does not answer within a minute.
    pub fn start() -> Self {
        let program =
            std::env::var_os("BECKON_MOTO").expect("BECKON_MOTO names moto_server; `cargo xtask check` sets it");
        let port = TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a free port").port();
        let child = Command::new(program)
            .args(["-H", "127.0.0.1", "-p", &port.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("moto starts");
        let agent = ureq::Agent::config_builder().http_status_as_error(false).build().new_agent();
        let moto = Self { child, url: format!("http://127.0.0.1:{port}"), agent };
        crate::wait_for("moto", Duration::from_secs(60), || {
            let made = moto.agent.put(format!("{}/{BUCKET}", moto.url)).send_empty().ok()?;
            (made.status().as_u16() == 200).then_some(())
        });
        moto
    }

    /// An object as it is; `None` where there is none.
    ///
    /// # Panics
    /// When there is no answer.
    pub fn get(&self, key: &str) -> Option<Vec<u8>> {
        // whoever signs is the owner; nobody looks at how
        let signed =
            "AWS4-HMAC-SHA256 Credential=x/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=0";
        let mut answer = self.agent.get(self.object(key)).header("authorization", signed).call().expect("an answer");
        let there = answer.status().as_u16() == 200;
        there.then(|| answer.body_mut().with_config().limit(1 << 30).read_to_vec().expect("a whole object"))
    }

    /// Makes or replaces an object, past the product.
    ///
    /// # Panics
    /// When it is refused.
    pub fn put(&self, key: &str, bytes: &[u8]) {
        let answer = self.agent.put(self.object(key)).send(bytes).expect("an answer");
        assert_eq!(answer.status().as_u16(), 200, "{key}");
    }

    fn object(&self, key: &str) -> String {
        format!("{}/{BUCKET}/{key}", self.url)
    }
}

impl Drop for Moto {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
