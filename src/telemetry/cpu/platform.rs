//! Where Java KCL would measure CPU too: on ECS, in Kubernetes and on EC2 (`WorkerMetricsSelector`), nowhere else.
//!
//! A leader compares workers by what all of them report. Where Java workers report nothing and ours report CPU, a Java
//! leader finds ours as busy as their own average and gives them nothing (`VarianceBasedLeaseAssignmentDecider`); so
//! ours report where Java's would.

use std::fs;
use std::path::Path;

/// Every pod has it, unless told otherwise (`EksResource`).
const KUBERNETES_TOKEN: &str = "var/run/secrets/kubernetes.io/serviceaccount/token";
/// What EC2 writes into the DMI tables of Nitro instances ("Detect whether a host is an EC2 instance", EC2 User Guide).
const VENDOR: (&str, &str) = ("sys/devices/virtual/dmi/id/sys_vendor", "Amazon EC2");
/// The same of Xen instances.
const HYPERVISOR: (&str, &str) = ("sys/hypervisor/uuid", "ec2");

/// The platform, if it is one of those. `root` is `/`, but in tests.
pub(super) fn name(on_ecs: bool, root: &Path) -> Option<&'static str> {
    let says = |(path, start): (&str, &str)| {
        fs::read_to_string(root.join(path)).is_ok_and(|text| text.trim_start().starts_with(start))
    };
    if on_ecs {
        Some("ECS")
    } else if root.join(KUBERNETES_TOKEN).exists() {
        Some("Kubernetes")
    } else if says(VENDOR) || says(HYPERVISOR) {
        Some("EC2")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_platform_is_known_by_its_mark() {
        let found = |on_ecs, files: &[(&str, &str)]| {
            let root = tempfile::tempdir().unwrap();
            for (path, text) in files {
                let path = root.path().join(path);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, text).unwrap();
            }
            name(on_ecs, root.path())
        };
        assert_eq!(found(false, &[]), None);
        assert_eq!(found(true, &[]), Some("ECS"));
        assert_eq!(found(false, &[(KUBERNETES_TOKEN, "x")]), Some("Kubernetes"));
        assert_eq!(found(false, &[(VENDOR.0, "Amazon EC2\n")]), Some("EC2"));
        assert_eq!(found(false, &[(HYPERVISOR.0, "ec2e1916-9099-7caf\n")]), Some("EC2"));
        assert_eq!(found(false, &[(VENDOR.0, "QEMU\n"), (HYPERVISOR.0, "e2\n")]), None);
    }
}
