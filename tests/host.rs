//! The proof of acceleration and the doctor's judgement on the host that runs the tests.

use flightcage::machines::host::{Severity, diagnose, plan};
use flightcage::machines::{acceleration, provider::Acceleration, qemu};

#[tokio::test]
async fn acceleration_is_proven_and_remembered() {
    assert!(
        qemu::version().await.is_some(),
        "there is no QEMU: flightcage doctor --fix --yes"
    );
    let directory = tempfile::tempdir().expect("a temporary directory can be made");
    let proof = acceleration::prove(directory.path())
        .await
        .expect("TCG works everywhere");
    eprintln!("{proof:?}");
    assert!(
        directory.path().join("acceleration.json").exists()
            || std::env::var_os(acceleration::OVERRIDE).is_some()
    );
    assert!(proof.acceleration == Acceleration::Tcg || std::path::Path::new("/dev/kvm").exists());
    assert_eq!(
        acceleration::prove(directory.path())
            .await
            .expect("it is recalled"),
        proof
    );
}

#[tokio::test]
async fn the_doctor_names_a_package_or_a_mend_for_every_problem() {
    let findings = diagnose(std::path::Path::new("/nonexistent/state")).await;
    for finding in &findings {
        eprintln!("{finding:?}");
        assert!(
            finding.severity != Severity::Problem || finding.mend.is_some(),
            "{finding:?}"
        );
    }
    let mut missing = findings;
    for finding in &mut missing {
        if finding.id == "qemu" {
            (finding.severity, finding.package) =
                (Severity::Problem, Some("qemu-system-x86".into()));
        }
    }
    eprintln!("{:?}", plan(&missing).await);
}
