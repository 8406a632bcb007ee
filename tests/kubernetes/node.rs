//! Owns what a node does for a pod: volumes as the kubelet makes them, and the containers' commands as processes of their
//! user.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::Value;
use tempfile::TempDir;

use crate::cluster::PATIENCE;
use crate::polling::until_within;

/// The user and group of both images.
pub(crate) const USER: u32 = 65532;

/// What a node would give to a pod.
pub(crate) struct Node {
    directory: TempDir,
}

impl Node {
    pub(crate) fn new() -> Self {
        let directory = TempDir::new().unwrap();
        open(directory.path());
        // Where the build is, others may not be let in.
        for (name, from) in
            [("crank-agent", env!("CARGO_BIN_EXE_crank-agent")), ("crank-ca", env!("CARGO_BIN_EXE_crank-ca"))]
        {
            fs::copy(from, directory.path().join(name)).unwrap();
        }
        Self { directory }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A volume that can be written to, as the kubelet hands it to a pod with an fsGroup.
    pub(crate) fn volume(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        fs::create_dir(&path).unwrap();
        chown(&path, Some(0), Some(USER)).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o2777)).unwrap();
        path
    }

    /// A volume with files for the pod's fsGroup to read, as projected ones have them.
    pub(crate) fn projected(&self, name: &str, files: &[(&str, &str)]) -> PathBuf {
        let path = self.path(name);
        fs::create_dir(&path).unwrap();
        open(&path);
        for (file, content) in files {
            fs::write(path.join(file), content).unwrap();
            chown(path.join(file), Some(0), Some(USER)).unwrap();
            fs::set_permissions(path.join(file), fs::Permissions::from_mode(0o640)).unwrap();
        }
        path
    }

    /// The command of `container`, which is in `pod`, with `mounts` in the place of where volumes are mounted.
    pub(crate) fn command(
        &self,
        program: &str,
        pod: &Value,
        container: &Value,
        mounts: &BTreeMap<&str, &Path>,
    ) -> Command {
        let place = |text: &str| {
            let mounted = mounts.iter().find_map(|(name, path)| {
                let mounts = container["volumeMounts"].as_array()?;
                let at = mounts.iter().find(|mount| mount["name"] == *name)?["mountPath"].as_str()?;
                text.contains(at).then(|| text.replace(at, path.to_str().unwrap()))
            });
            mounted.unwrap_or_else(|| text.to_owned())
        };
        let mut command = Command::new(self.path(program));
        let arguments = container["args"].as_array().unwrap().iter().map(|argument| place(argument.as_str().unwrap()));
        command.args(arguments).env_clear().uid(USER).gid(USER).current_dir("/");
        for (name, value) in environment(pod, container) {
            command.env(name, place(&value));
        }
        command.stdin(Stdio::null());
        command
    }
}

/// Readable for everybody.
fn open(directory: &Path) {
    fs::set_permissions(directory, fs::Permissions::from_mode(0o755)).unwrap();
}

/// The variables of a container as the kubelet resolves them: fields of the pod, then `$(NAME)` of those before.
pub(crate) fn environment(pod: &Value, container: &Value) -> Vec<(String, String)> {
    let mut resolved: Vec<(String, String)> = Vec::new();
    for entry in container["env"].as_array().into_iter().flatten() {
        let field = entry["valueFrom"]["fieldRef"]["fieldPath"].as_str();
        let value = if let Some(field) = field {
            field.split('.').fold(pod, |value, key| &value[key]).as_str().unwrap().to_owned()
        } else {
            let written = entry["value"].as_str().unwrap().to_owned();
            resolved.iter().fold(written, |text, (name, value)| text.replace(&format!("$({name})"), value))
        };
        resolved.push((entry["name"].as_str().unwrap().to_owned(), value));
    }
    resolved
}

/// A process that is ended when this is dropped.
pub(crate) struct Process(pub(crate) Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Polls until `condition` holds.
pub(crate) fn until(what: &str, mut condition: impl FnMut() -> bool) {
    until_within(PATIENCE, what, || condition().then_some(()));
}

/// The container of that name.
pub(crate) fn container<'a>(pod: &'a Value, list: &str, name: &str) -> &'a Value {
    pod["spec"][list].as_array().unwrap().iter().find(|container| container["name"] == name).unwrap()
}
