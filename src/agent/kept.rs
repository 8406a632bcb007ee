//! Owns what outlives a change of configuration where it fits the next one: the sockets, so that who connects meanwhile
//! waits and is answered, and the certificate directory with its lock and what is known of its files.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::config::{Config, FilesConfig, WorkloadApiConfig};
use crate::control::{ControlServer, SOCKET_MODE};
use crate::deliver::Progress;
use crate::serve::{Listener, ServeError};
use crate::store::{Store, StoreError};
use crate::unix_socket::SocketError;
use crate::workload::WorkloadSocket;

type Stores = BTreeMap<Option<String>, (FilesConfig, Arc<Store>)>;

/// What is open, by the setting that named it.
#[derive(Debug, Default)]
pub(super) struct Kept {
    /// By the name of the certificate, the first without one.
    stores: Mutex<Stores>,
    listener: Mutex<Option<(SocketAddr, Listener)>>,
    control: Mutex<Option<(PathBuf, Arc<ControlServer>)>>,
    deliveries: Mutex<BTreeMap<Option<String>, Progress>>,
    workload: Mutex<Option<(PathBuf, Arc<WorkloadSocket>)>>,
}

impl Kept {
    /// Lets go of the certificate directories that `config` does not have, or has otherwise: they may be those of others now.
    pub(super) fn begin_certificates(&self, config: &Config) {
        let further = config.certificates.iter().map(|further| (Some(&further.name), &further.config.files));
        let wanted: BTreeMap<_, _> = further.chain([(None, &config.files)]).collect();
        hold(&self.stores).retain(|name, (files, store)| {
            let stays = wanted.get(&name.as_ref()) == Some(&&*files);
            if !stays {
                store.release();
            }
            stays
        });
        hold(&self.deliveries).retain(|name, _| wanted.contains_key(&name.as_ref()));
    }

    /// The certificate directory: as it is open, or opened anew by other settings.
    pub(super) fn store(&self, name: Option<&str>, files: &FilesConfig) -> Result<Arc<Store>, StoreError> {
        let name = name.map(str::to_owned);
        let mut stores = hold(&self.stores);
        if let Some((_, open)) = stores.get(&name).filter(|(named, _)| named == files) {
            return Ok(Arc::clone(open));
        }
        let store = Arc::new(Store::open(files)?);
        stores.insert(name, (files.clone(), Arc::clone(&store)));
        Ok(store)
    }

    /// The listener on `address`: the one that is open, or another in its place. Where there can be no other, that one stays.
    pub(super) async fn listener(&self, address: SocketAddr) -> Result<Listener, ServeError> {
        if let Some(open) = kept(&self.listener, |named, _| *named == address) {
            return Ok(open);
        }
        let listener = Listener::bind(address).await?;
        *hold(&self.listener) = Some((address, listener.clone()));
        Ok(listener)
    }

    /// Who connects from now on is refused, once nobody serves there.
    pub(super) fn close_listener(&self) {
        *hold(&self.listener) = None;
    }

    /// How far the deliveries have come.
    pub(super) fn deliveries(&self, name: Option<&str>) -> Progress {
        hold(&self.deliveries).get(&name.map(str::to_owned)).cloned().unwrap_or_default()
    }

    /// Keeps how far they have come.
    pub(super) fn keep_deliveries(&self, name: Option<String>, progress: Progress) {
        hold(&self.deliveries).insert(name, progress);
    }

    /// The control socket at `path`: the one that is open, unless its file is gone, or another in its place.
    pub(super) fn control(&self, path: &Path) -> Result<Arc<ControlServer>, SocketError> {
        if let Some(open) = kept(&self.control, |named, server| named == path && server.is_reachable()) {
            return Ok(open);
        }
        let server = Arc::new(ControlServer::bind(path, SOCKET_MODE)?);
        *hold(&self.control) = Some((path.to_owned(), Arc::clone(&server)));
        Ok(server)
    }

    /// The socket of the Workload API: the one that is open, opened or closed to others as `config` has it, unless its file is
    /// gone, or another in its place.
    pub(super) fn workload(&self, config: &WorkloadApiConfig) -> Result<Arc<WorkloadSocket>, SocketError> {
        if let Some(open) = kept(&self.workload, |named, socket| *named == config.socket && socket.is_reachable()) {
            open.allow(&config.allow)?;
            return Ok(open);
        }
        let socket = Arc::new(WorkloadSocket::bind(&config.socket, &config.allow)?);
        *hold(&self.workload) = Some((config.socket.clone(), Arc::clone(&socket)));
        Ok(socket)
    }

    /// Nobody is to find the socket of the Workload API any more.
    pub(super) fn close_workload(&self) {
        *hold(&self.workload) = None;
    }
}

fn hold<T>(open: &Mutex<T>) -> MutexGuard<'_, T> {
    open.lock().unwrap_or_else(PoisonError::into_inner)
}

fn kept<N, S: Clone>(open: &Mutex<Option<(N, S)>>, serves: impl Fn(&N, &S) -> bool) -> Option<S> {
    hold(open).as_ref().filter(|(named, socket)| serves(named, socket)).map(|(_, socket)| socket.clone())
}
