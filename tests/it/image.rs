//! What the Dockerfile promises. What would be in the image is checked by `.ci/image.sh`.

use super::tidy::read;

#[test]
fn the_image_is_small_locked_and_unprivileged() {
    let file = read("Dockerfile").replace("\\\n", " ");
    let instructions: Vec<(&str, &str)> = file
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.trim().split_once(' '))
        .map(|(name, rest)| (name, rest.trim()))
        .collect();
    let all = |name: &str| -> Vec<&str> {
        instructions.iter().filter(|(found, _)| *found == name).map(|(_, rest)| *rest).collect()
    };
    let bases = all("FROM");
    assert_eq!(bases.len(), 2, "one stage builds, one runs");
    let manifest: toml::Table = read("Cargo.toml").parse().unwrap();
    let rust = manifest["package"]["rust-version"].as_str().unwrap();
    assert!(bases[0].starts_with(&format!("rust:{rust}")), "built with rust-version: {}", bases[0]);
    assert!(bases[1].contains("distroless"), "no shell: {}", bases[1]);
    for base in &bases {
        let image = base.split(' ').next().unwrap();
        let tag = image.rsplit('/').next().unwrap().split_once([':', '@']).map(|(_, tag)| tag);
        assert!(tag.is_some_and(|tag| tag != "latest"), "pinned: {base}");
    }
    let build = all("RUN").join("\n");
    for flag in ["cargo build", "--release", "--locked", "--no-default-features --features cli,kafka "] {
        assert!(build.contains(flag), "the build has {flag}");
    }
    let last = instructions.iter().rposition(|(name, _)| *name == "FROM").unwrap();
    let user = instructions[last..].iter().find(|(name, _)| *name == "USER").unwrap().1;
    let id: u32 =
        user.split(':').next().unwrap().parse().expect("a number, so that ECS can see that it is not root");
    assert_ne!(id, 0);
    assert_eq!(all("ENTRYPOINT"), [r#"["/kinetide"]"#], "no shell form: the process gets the signals itself");
    assert_eq!(all("CMD"), [r#"["run"]"#]);
    assert_eq!(all("STOPSIGNAL"), ["SIGTERM"]);
    assert!(all("ENV").contains(&"KINETIDE_HTTP=0.0.0.0:8080"), "health checks come from outside");
    assert_eq!(all("EXPOSE"), ["8080"]);
    assert!(all("ADD").is_empty(), "COPY does all we need");
    let version = manifest["package"]["version"].as_str().unwrap();
    let arguments = all("ARG");
    assert!(
        arguments.contains(&format!("VERSION={version}").as_str()),
        "the version of Cargo.toml: {arguments:?}"
    );
    let labels = all("LABEL").join(" ");
    for (label, value) in [("version", "$VERSION"), ("revision", "$REVISION"), ("licenses", "Apache-2.0")] {
        assert!(
            labels.contains(&format!("org.opencontainers.image.{label}=\"{value}\"")),
            "{label}: {labels}"
        );
    }
    // Bill of materials and licences, made by the build itself.
    assert!(build.contains("python3 image/about.py /usr/share/doc/kinetide"));
    assert!(all("COPY").contains(&"--from=build /usr/share/doc/kinetide /usr/share/doc/kinetide"));
}
