//! Transport security: an authority of our own, client certificates, and what is said when they are wrong.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tonic::transport::{Certificate, Identity, ServerTlsConfig};
use wattribute::config::{Otlp, Protocol, Tls};

use crate::receiver::{Receiver, Stop, grpc, http};
use crate::sender::{Sender, settings};
use crate::world::{World, package};

struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    fn pem(&self) -> String {
        self.0.pem()
    }

    fn issue(&self, name: &str) -> (rcgen::Certificate, KeyPair) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        (params.signed_by(&key, &self.0).unwrap(), key)
    }
}

fn file(directory: &Path, name: &str, text: &str) -> Option<PathBuf> {
    let path = directory.join(name);
    std::fs::write(&path, text).unwrap();
    Some(path)
}

/// A receiver that has a certificate for `localhost`, and may ask for one.
async fn serve(receiver: &Arc<Receiver>, protocol: Protocol, authority: &Authority, ask: bool) -> (u16, Stop) {
    let (certificate, key) = authority.issue("localhost");
    let (address, stop) = match protocol {
        Protocol::Grpc => {
            let mut tls = ServerTlsConfig::new().identity(Identity::from_pem(certificate.pem(), key.serialize_pem()));
            if ask {
                tls = tls.client_ca_root(Certificate::from_pem(authority.pem()));
            }
            grpc(receiver, None, Some(tls)).await
        }
        Protocol::HttpProtobuf => {
            let provider = Arc::new(rustls::crypto::ring::default_provider());
            let builder = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider));
            let builder = builder.with_safe_default_protocol_versions().unwrap();
            let builder = if ask {
                let mut roots = rustls::RootCertStore::empty();
                roots.add(authority.0.der().clone()).unwrap();
                let verifier =
                    rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
                builder.with_client_cert_verifier(verifier.unwrap())
            } else {
                builder.with_no_client_auth()
            };
            let private = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
            let config = builder.with_single_cert(vec![certificate.der().clone()], private).unwrap();
            http(receiver, Some(Arc::new(config))).await
        }
    };
    (address.port(), stop)
}

fn secure(protocol: Protocol, port: u16, tls: Tls) -> Otlp {
    let base = settings(protocol, "127.0.0.1:1".parse().unwrap());
    Otlp { endpoint: format!("https://localhost:{port}"), tls, ..base }
}

fn world() -> World {
    let mut world = World::new(vec![package("rapl:package-0")]);
    world.rest(0, 5, 0);
    world
}

#[tokio::test]
async fn an_authority_of_ones_own_is_trusted() {
    let directory = tempfile::tempdir().unwrap();
    for protocol in [Protocol::Grpc, Protocol::HttpProtobuf] {
        let authority = Authority::new();
        let receiver = Receiver::script([]);
        let (port, _stop) = serve(&receiver, protocol, &authority, false).await;
        let ca_file = file(directory.path(), "ca.pem", &authority.pem());
        let sender = Sender::start(&secure(protocol, port, Tls { ca_file, ..Tls::default() }));
        sender.publish(world().tick(15));
        receiver.taken(1).await;
        assert_eq!(sender.lines(), Vec::<String>::new());
        sender.stop().await;
    }
}

#[tokio::test]
async fn a_receiver_may_ask_for_a_certificate() {
    let directory = tempfile::tempdir().unwrap();
    for protocol in [Protocol::Grpc, Protocol::HttpProtobuf] {
        let authority = Authority::new();
        let receiver = Receiver::script([]);
        let (port, _stop) = serve(&receiver, protocol, &authority, true).await;
        let ca_file = file(directory.path(), "ca.pem", &authority.pem());
        let (certificate, key) = authority.issue("agent");
        let cert_file = file(directory.path(), "cert.pem", &certificate.pem());
        let key_file = file(directory.path(), "key.pem", &key.serialize_pem());
        let bare = Sender::start(&secure(protocol, port, Tls { ca_file: ca_file.clone(), ..Tls::default() }));
        bare.publish(world().tick(15));
        bare.said("cannot reach").await;
        let tls = Tls { ca_file, cert_file, key_file, insecure_skip_verify: false };
        let sender = Sender::start(&secure(protocol, port, tls));
        sender.publish(world().tick(15));
        receiver.taken(1).await;
        assert_eq!(sender.lines(), Vec::<String>::new());
        sender.stop().await;
    }
}

#[tokio::test]
async fn another_authority_is_refused_with_advice_until_its_file_is_replaced() {
    let directory = tempfile::tempdir().unwrap();
    for protocol in [Protocol::Grpc, Protocol::HttpProtobuf] {
        let (authority, other) = (Authority::new(), Authority::new());
        let receiver = Receiver::script([]);
        let (port, _stop) = serve(&receiver, protocol, &authority, false).await;
        let ca_file = file(directory.path(), "ca.pem", &other.pem());
        let sender = Sender::start(&secure(protocol, port, Tls { ca_file, ..Tls::default() }));
        sender.publish(world().tick(15));
        let line = sender.said("cannot reach").await;
        assert!(line.contains("OTEL_EXPORTER_OTLP_CERTIFICATE"), "{line}");
        file(directory.path(), "ca.pem", &authority.pem());
        receiver.taken(1).await;
        sender.said("is back").await;
        sender.stop().await;
    }
}

#[tokio::test]
async fn verification_can_be_switched_off() {
    for protocol in [Protocol::Grpc, Protocol::HttpProtobuf] {
        let receiver = Receiver::script([]);
        let (port, _stop) = serve(&receiver, protocol, &Authority::new(), false).await;
        let tls = Tls { insecure_skip_verify: true, ..Tls::default() };
        let sender = Sender::start(&secure(protocol, port, tls));
        sender.publish(world().tick(15));
        receiver.taken(1).await;
        sender.stop().await;
    }
}
