//! SCRAM-SHA-256 as PostgreSQL asks for it: RFC 5802 and RFC 7677, without channel binding.

use beckon_shared::digest::{hex, sha256};

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
/// Most rounds that a server may ask for.
const MAX_ROUNDS: u32 = 10_000_000;

/// One exchange.
pub(super) struct Scram {
    nonce: String,
    /// What the server has to show at the end.
    server_signature: Option<[u8; 32]>,
}

impl Scram {
    /// # Errors
    /// The system gives no randomness.
    pub(super) fn begin() -> Result<Self, getrandom::Error> {
        let mut nonce = [0; 18];
        getrandom::fill(&mut nonce)?;
        Ok(Self { nonce: hex(&nonce), server_signature: None })
    }

    /// The first message. The name of the user stands in PostgreSQL's own start already.
    pub(super) fn first(&self) -> String {
        format!("n,,n=,r={}", self.nonce)
    }

    /// The answer to a challenge; `None` where that is none of this exchange.
    pub(super) fn answer(&mut self, challenge: &[u8], password: &str) -> Option<String> {
        let challenge = std::str::from_utf8(challenge).ok()?;
        let mut parts = challenge.splitn(3, ',');
        let nonce = parts.next()?.strip_prefix("r=")?;
        let salt = from_base64(parts.next()?.strip_prefix("s=")?)?;
        let rounds: u32 = parts.next()?.strip_prefix("i=")?.parse().ok()?;
        if !nonce.starts_with(&self.nonce) || nonce.len() == self.nonce.len() || !(1..=MAX_ROUNDS).contains(&rounds) {
            return None;
        }
        let salted = salted(password, &salt, rounds);
        let without_proof = format!("c=biws,r={nonce}");
        // the first message without its header, the challenge, the last message without its proof
        let whole = format!("n=,r={},{challenge},{without_proof}", self.nonce);
        let client_key = hmac(&salted, b"Client Key");
        let signature = hmac(&sha256(&client_key), whole.as_bytes());
        let proof: Vec<u8> = client_key.iter().zip(signature).map(|(key, signature)| key ^ signature).collect();
        self.server_signature = Some(hmac(&hmac(&salted, b"Server Key"), whole.as_bytes()));
        Some(format!("{without_proof},p={}", to_base64(&proof)))
    }

    /// Whether the last message shows that the server knows the password too.
    pub(super) fn is_proof(&self, last: &[u8]) -> bool {
        let shown = std::str::from_utf8(last).ok().and_then(|text| from_base64(text.strip_prefix("v=")?));
        shown.is_some() && shown.as_deref() == self.server_signature.as_ref().map(|signature| &signature[..])
    }
}

/// RFC 2104 with SHA-256.
fn hmac(key: &[u8], text: &[u8]) -> [u8; 32] {
    const BLOCK: usize = 64;
    let mut block = [0; BLOCK];
    if key.len() > BLOCK {
        block[..32].copy_from_slice(&sha256(key));
    } else {
        block[..key.len()].copy_from_slice(key);
    }
    let inner = sha256(&[&block.map(|byte| byte ^ 0x36)[..], text].concat());
    sha256(&[&block.map(|byte| byte ^ 0x5c)[..], &inner].concat())
}

/// PBKDF2 with one block of output: `Hi` of RFC 5802. A password outside ASCII is taken as it is (no SASLprep).
fn salted(password: &str, salt: &[u8], rounds: u32) -> [u8; 32] {
    let mut last = hmac(password.as_bytes(), &[salt, &1_u32.to_be_bytes()].concat());
    let mut sum = last;
    for _ in 1..rounds {
        last = hmac(password.as_bytes(), &last);
        sum.iter_mut().zip(last).for_each(|(sum, byte)| *sum ^= byte);
    }
    sum
}

fn to_base64(bytes: &[u8]) -> String {
    let group = |bytes: &[u8]| {
        let word = bytes.iter().fold(0_u32, |word, byte| word << 8 | u32::from(*byte)) << (8 * (3 - bytes.len()));
        let digit = |idx: usize| match idx <= bytes.len() {
            true => ALPHABET[(word >> (18 - 6 * idx) & 63) as usize] as char,
            false => '=',
        };
        [0, 1, 2, 3].map(digit)
    };
    bytes.chunks(3).flat_map(group).collect()
}

fn from_base64(text: &str) -> Option<Vec<u8>> {
    let digits = text.trim_end_matches('=').bytes();
    let mut bytes = Vec::new();
    let (mut word, mut n_bits) = (0_u32, 0);
    for digit in digits {
        word = word << 6 | ALPHABET.iter().position(|known| *known == digit)? as u32;
        n_bits += 6;
        if n_bits >= 8 {
            n_bits -= 8;
            bytes.push((word >> n_bits) as u8);
            word &= (1 << n_bits) - 1;
        }
    }
    (word == 0).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 7677, section 3; the user's name is not in our first message, so the texts differ there and the keys do not.
    #[test]
    fn keys_are_those_of_the_rfc() {
        let salt = from_base64("W22ZaJ0SNY7soEsUEjb6gQ==").expect("base64");
        let salted = salted("pencil", &salt, 4096);
        let nonce = "rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
        let whole =
            format!("n=user,r=rOprNGfwEbeRWgbNEkqO,r={nonce},s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096,c=biws,r={nonce}");
        let client_key = hmac(&salted, b"Client Key");
        let signature = hmac(&sha256(&client_key), whole.as_bytes());
        let proof: Vec<u8> = client_key.iter().zip(signature).map(|(a, b)| a ^ b).collect();
        assert_eq!(to_base64(&proof), "dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=");
        let server = hmac(&hmac(&salted, b"Server Key"), whole.as_bytes());
        assert_eq!(to_base64(&server), "6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=");
    }

    #[test]
    fn a_challenge_of_another_exchange_is_refused() {
        let mut scram = Scram { nonce: "ab".into(), server_signature: None };
        for bad in ["", "r=xy12,s=AAAA,i=1", "r=ab,s=AAAA,i=1", "r=ab1,s=A*,i=1", "r=ab1,s=AAAA,i=0", "r=ab1,s=AAAA"] {
            assert_eq!(scram.answer(bad.as_bytes(), "p"), None, "{bad}");
            assert!(!scram.is_proof(b"v="), "{bad}");
        }
        assert!(scram.answer(b"r=ab1,s=AAAA,i=1", "p").is_some());
        assert!(!scram.is_proof(b"v=AAAA"));
    }

    #[test]
    fn base64_goes_there_and_back() {
        for (bytes, text) in [(&b""[..], ""), (b"f", "Zg=="), (b"fo", "Zm8="), (b"foo", "Zm9v"), (b"\xff\xfe", "//4=")]
        {
            assert_eq!(to_base64(bytes), text);
            assert_eq!(from_base64(text).as_deref(), Some(bytes));
        }
        assert_eq!(from_base64("Zh=="), None);
    }
}
