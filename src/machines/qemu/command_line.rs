//! QEMU's command line for one machine: a pure function of what was recorded.

use std::path::Path;

use super::directory::MachineDirectory;
use super::disk::{BACKEND, DEVICE, IMAGE};
use crate::machines::journal::PORT_NAME;
use crate::machines::provider::{Acceleration, BoxBoot, MachineRequest};
use crate::model::addresses::{node_mac, ssh_mac};
use crate::model::clock;

/// A versioned machine type, so that a saved state loads into a later QEMU; 7.2 is the oldest QEMU we take.
const MACHINE_TYPE: &str = "pc-q35-7.2";
/// QEMU's cache of translated code under TCG. A boot fills it. 256 MiB bring nothing (up 18 s, a load of 25/s: p50 37 ms); with 48 the
/// cluster is up after 29 s instead of 19, and a load that has a p50 of 32 ms loses a quarter of its requests.
const TRANSLATION_CACHE_MIB: u32 = 128;
/// The emulated CPU, by the names of what it has: the same in every QEMU, whatever a later one learns to emulate. `max` without a list of
/// features is not: QEMU 10.0 has `fsrm`, which 7.2 has not and which hangs a kernel that was told not to use `erms`.
///
/// Beside the x86-64-v2 level (images ask for it, and the box's sshd): what ciphers, random numbers and system calls are cheap with. Not
/// there is what only costs under emulation: a fifth level of page tables, access checks of the kernel's on each copy, byte-wise string
/// instructions that TCG runs byte by byte, vectors that it runs through helpers and the wide states that are saved for them.
const TCG_CPU: &str = "qemu64,-svm,+ssse3,+sse4.1,+sse4.2,+popcnt,+movbe,+bmi1,+bmi2,+abm,+adx,+aes,+pclmulqdq,+rdrand,\
                       +fsgsbase,+rdtscp,+pdpe1gb,+3dnowprefetch,+clflushopt,+arat";
/// Added to load a saved memory from standard input and to stay stopped then.
pub(super) const RESTORE_FROM_INPUT: [&str; 3] = ["-S", "-incoming", INPUT];
/// Standard input, in QEMU's words; [`super::exec_vm`] puts another descriptor in its place.
pub(super) const INPUT: &str = "fd:0";

/// What a start of a machine depends on.
pub(super) struct Start<'a> {
    pub(super) request: &'a MachineRequest,
    pub(super) directory: &'a MachineDirectory,
    pub(super) qmp_socket: &'a Path,
    /// A socket that somebody listens on.
    pub(super) clock_socket: &'a Path,
    /// The loopback port that leads to the guest's SSH server; 0 lets the system choose.
    pub(super) ssh_port: u16,
    pub(super) acceleration: Acceleration,
}

/// The arguments after the program's name. The order of the two disks is a contract with the box.
pub(super) fn arguments(start: &Start<'_>) -> Vec<String> {
    let Start {
        request, directory, ..
    } = start;
    let spec = &request.spec;
    let accelerator = match start.acceleration {
        Acceleration::Kvm => "kvm".to_owned(),
        Acceleration::Tcg => {
            format!("tcg,thread=multi,tb-size={TRANSLATION_CACHE_MIB}")
        }
    };
    let mut words: Vec<String> = Vec::new();
    let mut option = |name: &str, value: String| words.extend([format!("-{name}"), value]);
    option("name", format!("{},debug-threads=on", spec.name));
    option("machine", MACHINE_TYPE.to_owned());
    option("accel", accelerator);
    option(
        "cpu",
        if start.acceleration == Acceleration::Tcg {
            TCG_CPU
        } else {
            "max"
        }
        .to_owned(),
    );
    option("m", format!("{}M", spec.memory_bytes >> 20));
    option("smp", spec.cpus.to_string());
    option("display", "none".to_owned());
    option("vga", "none".to_owned());
    option("msg", "timestamp=on".to_owned());

    option(
        "fw_cfg",
        format!(
            "name={},file={}",
            request.box_files.fw_cfg,
            value(&directory.ignition())
        ),
    );
    let disk = value(&directory.disk(&request.box_files.boot));
    match &request.box_files.boot {
        BoxBoot::Kernel(boot) => {
            option("kernel", boot.kernel.display().to_string());
            option("initrd", boot.initramfs.display().to_string());
            let own = spec
                .kernel_arguments
                .iter()
                .fold(String::new(), |line, argument| line + " " + argument);
            option("append", format!("console=ttyS0 {}{own}", boot.arguments));
            let root = value(&boot.root);
            option(
                "drive",
                format!("file={root},format=raw,if=none,id=root,readonly=on,file.locking=off"),
            );
            option("device", "virtio-blk-pci,drive=root".to_owned());
            let (drive, device) = own_disk(&disk, "raw");
            option("drive", drive);
            option("device", device);
        }
        // Refused when the machine's directory was made.
        BoxBoot::Existing => {}
        BoxBoot::Disk(_) => {
            let (drive, device) = own_disk(&disk, "qcow2");
            option("drive", drive);
            option("device", device + ",bootindex=0");
        }
    }

    let fabric = value(&request.fabric_socket);
    option(
        "netdev",
        format!("stream,id=cluster,server=off,addr.type=unix,addr.path={fabric}"),
    );
    option("device", network_card("cluster", node_mac(request.index)));
    // The address keeps it off every other interface; `restrict` keeps the guest off the host.
    option(
        "netdev",
        format!(
            "user,id=ssh,restrict=on,hostfwd=tcp:127.0.0.1:{}-:22",
            start.ssh_port
        ),
    );
    option("device", network_card("ssh", ssh_mac(request.index)));

    // What the guest has freed goes back to the host, and into no snapshot.
    option(
        "device",
        "virtio-balloon-pci,free-page-reporting=on".to_owned(),
    );
    option(
        "object",
        "rng-random,id=random,filename=/dev/urandom".to_owned(),
    );
    option("device", "virtio-rng-pci,rng=random".to_owned());
    option(
        "chardev",
        format!(
            "file,id=console,append=on,path={}",
            value(&directory.console())
        ),
    );
    option("serial", "chardev:console".to_owned());
    // The journal's own way to the host: no network, nothing that a fault cuts, and a writer that never waits.
    option("device", "virtio-serial-pci,id=ports".to_owned());
    option(
        "chardev",
        format!(
            "file,id=journal,append=on,path={}",
            value(&directory.journal())
        ),
    );
    option(
        "device",
        format!("virtserialport,bus=ports.0,chardev=journal,name={PORT_NAME}"),
    );
    option(
        "chardev",
        format!("socket,id=clock,path={}", value(start.clock_socket)),
    );
    option(
        "device",
        format!(
            "virtserialport,bus=ports.0,chardev=clock,name={}",
            clock::PORT
        ),
    );
    option(
        "chardev",
        format!(
            "socket,id=qmp,server=on,wait=off,path={}",
            value(start.qmp_socket)
        ),
    );
    option("mon", "chardev=qmp,mode=control".to_owned());
    words.extend(["-nodefaults".to_owned(), "-no-user-config".to_owned()]);
    words
}

/// The machine's own disk: its drive and its device, whose names are those by which disk faults find it.
fn own_disk(path: &str, format: &str) -> (String, String) {
    let drive = format!(
        "file={path},format={format},if=none,id={BACKEND},node-name={IMAGE},discard=unmap,cache=unsafe"
    );
    (drive, format!("virtio-blk-pci,drive={BACKEND},id={DEVICE}"))
}

/// `romfile=`: without a boot ROM the firmware does not spend seconds on network boot.
fn network_card(netdev: &str, mac: [u8; 6]) -> String {
    let mac = mac.map(|byte| format!("{byte:02x}")).join(":");
    format!("virtio-net-pci,netdev={netdev},mac={mac},romfile=")
}

/// A path as the value of a QEMU option, where a comma would begin the next one.
fn value(path: &Path) -> String {
    path.display().to_string().replace(',', ",,")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machines::provider::{BoxFiles, DiskFormat, DiskImage, KernelBoot};
    use crate::model::cluster::ClusterSpec;

    fn kernel() -> BoxBoot {
        BoxBoot::Kernel(KernelBoot {
            kernel: "/box/kernel".into(),
            initramfs: "/box/initramfs".into(),
            root: "/a,b/root".into(),
            arguments: "quiet".into(),
        })
    }

    fn words(acceleration: Acceleration, boot: BoxBoot) -> Vec<String> {
        let cluster = ClusterSpec::with_workers("test".parse().expect("a name"), 1);
        let mut spec = cluster.machines[1].clone();
        spec.kernel_arguments = vec!["loglevel=7".into()];
        let request = MachineRequest {
            spec,
            index: 1,
            box_files: BoxFiles {
                hash: "00".into(),
                content: "11".into(),
                fw_cfg: "opt/x/config".into(),
                boot,
            },
            ignition: "{}".into(),
            fabric_socket: "/run/f.sock".into(),
        };
        let directory = MachineDirectory::new(Path::new("/state"), &request.spec.name);
        let socket = Path::new("/run/w1.qmp");
        let clock_socket = Path::new("/run/w1.clock");
        arguments(&Start {
            request: &request,
            directory: &directory,
            qmp_socket: socket,
            clock_socket,
            ssh_port: 0,
            acceleration,
        })
    }

    #[test]
    fn the_root_is_the_first_disk_and_shared_read_only() {
        let words = words(Acceleration::Tcg, kernel());
        let drives: Vec<&String> = words
            .iter()
            .filter(|word| word.starts_with("file="))
            .collect();
        assert!(
            drives[0].starts_with("file=/a,,b/root,")
                && drives[0].contains("readonly=on,file.locking=off"),
            "{drives:?}"
        );
        assert!(
            drives[1].starts_with("file=/state/machines/w1/disk.raw,"),
            "{drives:?}"
        );
    }

    #[test]
    fn a_clusters_own_kernel_arguments_come_last() {
        assert!(
            words(Acceleration::Tcg, kernel())
                .contains(&"console=ttyS0 quiet loglevel=7".to_owned())
        );
    }

    #[test]
    fn a_disk_boots_itself_from_its_overlay() {
        let image = DiskImage {
            path: "/box/image".into(),
            format: DiskFormat::Raw,
            virtual_size: 1 << 30,
        };
        let words = words(Acceleration::Tcg, BoxBoot::Disk(image));
        assert!(
            !words
                .iter()
                .any(|word| word == "-kernel" || word == "-append"),
            "{words:?}"
        );
        let drives: Vec<&String> = words
            .iter()
            .filter(|word| word.starts_with("file="))
            .collect();
        assert!(
            matches!(drives[..], [only] if only.starts_with("file=/state/machines/w1/disk.qcow2,format=qcow2,")),
            "{drives:?}"
        );
        assert!(
            words
                .iter()
                .any(|word| word.starts_with("name=opt/x/config,file=")),
            "{words:?}"
        );
    }

    #[test]
    fn ssh_is_on_loopback_only_and_the_guest_is_kept_off_the_host() {
        let words = words(Acceleration::Kvm, kernel());
        assert!(
            words.contains(&"user,id=ssh,restrict=on,hostfwd=tcp:127.0.0.1:0-:22".to_owned()),
            "{words:?}"
        );
        assert!(
            words.contains(
                &"virtio-net-pci,netdev=cluster,mac=52:54:00:77:00:0c,romfile=".to_owned()
            ),
            "{words:?}"
        );
        assert!(
            words.contains(&"kvm".to_owned()) && words.contains(&"2".to_owned()),
            "{words:?}"
        );
    }
}
