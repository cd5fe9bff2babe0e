//! Transport security for everything that connects: which servers are trusted, and who we say we are.
//!
//! ring is named as the provider in each configuration, so nothing depends on a default of the process. PEM files are
//! read again whenever the client is built anew, which is after every failure to connect: renewed certificates need no
//! restart.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::ring::cipher_suite;
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, hash, ring, verify_tls12_signature, verify_tls13_signature,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

use crate::config::Trust;

/// What is wrong with the settings.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("cannot read {path}: {source}; check the path and that the agent's user may read it")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file is no PEM, or the wrong one.
    #[error("{path} holds no {what} in PEM format")]
    Pem {
        /// The file.
        path: PathBuf,
        /// What should be in it.
        what: &'static str,
    },
    /// One of the pair is missing.
    #[error("a client certificate needs its key and the key its certificate: set both or neither")]
    Half,
    /// The system has no authorities.
    #[error("this system has no certificate authorities; name a PEM bundle as the CA file")]
    NoAuthorities,
    /// rustls refuses them.
    #[error("certificate and key cannot be used: {0}")]
    Unusable(#[from] rustls::Error),
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    super::read_file(path, 4 << 20).map_err(|source| TlsError::Read { path: path.to_owned(), source })
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let wrong = || TlsError::Pem { path: path.to_owned(), what: "certificate" };
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&read(path)?).collect();
    found.ok().filter(|found| !found.is_empty()).ok_or_else(wrong)
}

/// A client's configuration. `identity`: the files of our certificate and its key. `secure`: whether the endpoint is
/// `https`; else nothing is read. `alpn`: protocols offered.
///
/// # Errors
/// When a file cannot be read or used, or no authority is known.
pub fn client(
    trust: &Trust,
    identity: [Option<&Path>; 2],
    secure: bool,
    alpn: &[&[u8]],
) -> Result<ClientConfig, TlsError> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions()?;
    let builder = if trust.fingerprint.is_some() || trust.insecure_skip_verify {
        let known = Known { provider, fingerprint: trust.fingerprint };
        builder.dangerous().with_custom_certificate_verifier(Arc::new(known))
    } else {
        builder.with_root_certificates(authorities(trust, secure)?)
    };
    let mut config = match identity.into() {
        (Some(cert), Some(key)) if secure => {
            let wrong = || TlsError::Pem { path: key.to_owned(), what: "private key" };
            let private = PrivateKeyDer::from_pem_slice(&read(key)?).map_err(|_| wrong())?;
            builder.with_client_auth_cert(certificates(cert)?, private)?
        }
        (Some(_), None) | (None, Some(_)) if secure => return Err(TlsError::Half),
        _ => builder.with_no_client_auth(),
    };
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    Ok(config)
}

fn authorities(trust: &Trust, secure: bool) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    if !secure {
        return Ok(roots);
    }
    if let Some(path) = &trust.ca_file {
        for certificate in certificates(path)? {
            roots.add(certificate)?;
        }
    } else {
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    }
    if roots.is_empty() { Err(TlsError::NoAuthorities) } else { Ok(roots) }
}

/// Trusts one certificate, or any (`insecure_skip_verify`); signatures are still checked, so whoever shows it has its key.
#[derive(Debug)]
struct Known {
    provider: Arc<CryptoProvider>,
    fingerprint: Option<[u8; 32]>,
}

impl Known {
    fn algorithms(&self) -> &WebPkiSupportedAlgorithms {
        &self.provider.signature_verification_algorithms
    }
}

/// The SHA-256 of a certificate, by the hash of a cipher suite that has it.
fn sha256(certificate: &CertificateDer<'_>) -> Option<hash::Output> {
    let suite = cipher_suite::TLS13_AES_128_GCM_SHA256.tls13()?;
    Some(suite.common.hash_provider.hash(certificate))
}

impl ServerCertVerifier for Known {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let Some(wanted) = self.fingerprint else { return Ok(ServerCertVerified::assertion()) };
        let found = sha256(certificate);
        let found = found.as_ref().map(AsRef::as_ref).unwrap_or_default();
        if found != wanted {
            let found: Vec<String> = found.iter().map(|byte| format!("{byte:02X}")).collect();
            let text = format!("the server shows a certificate with the fingerprint {}, not the one", found.join(":"));
            return Err(rustls::Error::General(text + " that is configured"));
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, self.algorithms())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, self.algorithms())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms().supported_schemes()
    }
}
