//! A worker that asks another, again and again, until Ctrl-C. Each request goes out with what is published by then:
//!
//! `mtls-client /etc/certs https://streaming:8443/`
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a program for a terminal")]

use std::error::Error;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use crank_agent::mtls::PeerUrl;
use crank_agent::printable::error_chain;
use crank_agent::{MtlsClient, create_mtls_client};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{}", error_chain(&*error));
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(directory), Some(url)) = (arguments.next(), arguments.next()) else {
        return Err("usage: mtls-client CERTIFICATE_DIRECTORY URL [MILLISECONDS BETWEEN REQUESTS]".into());
    };
    let pause = Duration::from_millis(arguments.next().map_or(Ok(1000), |text| text.parse())?);
    // Made once, for all requests. Without a valid certificate there is no client.
    let client = create_mtls_client(Path::new(&directory))?;
    let url: PeerUrl = url.parse()?;

    let (mut answered, mut failed) = (0_u64, 0_u64);
    let stop = tokio::signal::ctrl_c();
    tokio::pin!(stop);
    let mut turns = tokio::time::interval(pause);
    loop {
        tokio::select! {
            _ = &mut stop => break,
            _ = turns.tick() => {}
        }
        match ask(&client, &url).await {
            Ok(text) => {
                answered += 1;
                println!("{text}");
            }
            Err(error) => {
                failed += 1;
                eprintln!("{}", error_chain(&*error));
            }
        }
    }
    println!("{answered} answered, {failed} failed");
    Ok(())
}

async fn ask(client: &MtlsClient, url: &PeerUrl) -> Result<String, Box<dyn Error>> {
    let answer = client.get(url.clone()).send().await?.error_for_status()?;
    Ok(answer.text().await?)
}
