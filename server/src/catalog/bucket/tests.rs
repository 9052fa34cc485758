//! Addresses and names; what a storage does is tested end to end, against one.

use super::*;

fn open(url: &str, endpoint: Option<&str>, region: Option<&str>) -> Result<Bucket, BucketError> {
    let address = Address { url: url.into(), endpoint: endpoint.map(str::to_owned), region: region.map(str::to_owned) };
    Bucket::with_key(&address, Credentials::new("key", "secret"))
}

#[test]
fn an_address_becomes_bucket_prefix_and_host() {
    let amazon = open("s3://lab/models/beckon/", None, Some("eu-west-1")).expect("an address");
    assert_eq!(amazon.signer.base_url().as_str(), "https://lab.s3.eu-west-1.amazonaws.com/");
    assert_eq!(amazon.key("ab"), "models/beckon/ab.beckon");
    assert_eq!(amazon.name("ab"), "s3://lab/models/beckon/ab.beckon");
    let own = open("s3://lab", Some("http://localhost:9000"), None).expect("an address");
    assert_eq!((own.signer.base_url().as_str(), own.signer.region()), ("http://localhost:9000/lab/", "us-east-1"));
    assert_eq!(own.key("ab"), "ab.beckon");
    let dotted = open("s3://my.lab/x", None, None).expect("an address");
    assert_eq!(dotted.signer.base_url().as_str(), "https://s3.us-east-1.amazonaws.com/my.lab/");
}

#[test]
fn what_is_no_address_is_refused_with_the_form() {
    for url in ["lab/models", "s3://", "s3:///x", "s3://lab/../x", "s3://lab//x", "gs://lab", "s3://lab/a?b"] {
        let text = open(url, None, None).err().unwrap_or_else(|| panic!("{url} was taken")).to_string();
        assert!(text.contains(url) && text.contains("s3://BUCKET/PREFIX"), "{text}");
    }
    for endpoint in ["localhost:9000", "ftp://localhost", "nonsense"] {
        let text = open("s3://lab", Some(endpoint), None).err().expect("refused").to_string();
        assert!(text.contains(endpoint), "{text}");
    }
}

#[test]
fn a_name_from_the_bucket_is_an_id_or_left_out() {
    assert!(is_id(&"0a".repeat(32)));
    for name in ["", "..", "a/b", &"0A".repeat(32), &"0a".repeat(31), &format!("../{}", "0a".repeat(32))] {
        assert!(!is_id(name), "{name}");
    }
}

#[test]
fn an_answer_in_xml_is_told_in_words() {
    let xml = "<?xml version=\"1.0\"?><Error><Code>NoSuchBucket</Code><Message>It is not there</Message></Error>";
    assert_eq!(plain(xml), "NoSuchBucket: It is not there");
    assert_eq!(plain("a proxy's page"), "a proxy's page");
}
