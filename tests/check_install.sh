#!/bin/sh
# `make install` and the bundle's folder, tried where nothing else is: an empty environment, another place, and, as root,
# a root folder that holds the C library alone.
set -eu
place=$(mktemp -d /tmp/cudistill-install-XXXXXX)
trap 'rm -rf "$place"' EXIT
failed=0
check() { # name, command...
    name=$1
    shift
    if "$@" > "$place/out" 2>&1; then
        echo "[       OK ] $name"
    else
        echo "[  FAILED  ] $name"
        cat "$place/out"
        failed=1
    fi
}
empty() { env -i PATH=/usr/bin:/bin HOME="$place" "$@"; }
tiny="--set train.max_steps=2 --set data.options=classes=4,train=64,test=32 --set report.auto=false"

check "install" make --no-print-directory install-files DESTDIR="$place/root" PREFIX=/usr
bin=$place/root/usr/bin/cudistill
check "installed program runs" empty "$bin" version
check "man page" grep -q '^\.SH' "$place/root/usr/share/man/man1/cudistill.1"
if command -v man > /dev/null && command -v groff > /dev/null; then
    check "man page has no warnings" sh -c "test -z \"\$(groff -man -ww -Tutf8 '$place/root/usr/share/man/man1/cudistill.1' 2>&1 >/dev/null)\""
else
    echo "[  SKIPPED ] man page has no warnings: no groff"
fi
check "bash completion parses" bash -n "$place/root/usr/share/bash-completion/completions/cudistill"
# shellcheck disable=SC2086
check "installed configurations train" empty "$bin" train "$place/root/usr/share/cudistill/configs/quickstart/alone.ini" \
    --set run.out="$place/run" $tiny
check "uninstall" make --no-print-directory uninstall DESTDIR="$place/root" PREFIX=/usr
check "uninstall leaves nothing" sh -c "! find '$place/root' -type f | grep ."

check "bundle" make --no-print-directory bundle-folder BUNDLE_PACK=0 BUNDLE_TESTS= GPU_KERNEL_TESTS= \
    BUNDLE="$place/bundle"
mkdir "$place/elsewhere"
mv "$place/bundle" "$place/elsewhere/moved"
moved=$place/elsewhere/moved
check "moved bundle runs" empty "$moved/bin/cudistill" version
check "its libraries are its own" sh -c "! env -i ldd '$moved/bin/cudistill' | grep -E 'not found|=> /(usr/)?lib/.*(dnnl|inih|jansson|archive|png|protobuf|isal)'"
if [ "$(id -u)" = 0 ]; then
    # Nothing but the C library and its own loader, as on a machine without packages.
    jail=$place/jail
    mkdir -p "$jail/lib64" "$jail/lib/x86_64-linux-gnu" "$jail/tmp" "$jail/proc" "$jail/dev"
    ldd "$moved/bin/cudistill" | awk '$3 ~ /^\// {print $3}' | grep -E '/(libc|libm|libdl|libpthread|librt)\.so' | xargs -I{} cp -L {} "$jail/lib/x86_64-linux-gnu/"
    cp -L /lib64/ld-linux-x86-64.so.2 "$jail/lib64/"
    cp -r "$moved" "$jail/bundle"
    # Without /proc the loader has to be told where the program lies.
    # shellcheck disable=SC2086
    check "bundle trains with nothing but the C library" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/tmp OMP_WAIT_POLICY=passive \
        LD_ORIGIN_PATH=/bundle/bin chroot "$jail" \
        /bundle/bin/cudistill train /bundle/configs/quickstart/alone.ini --set run.out=/tmp/run $tiny
else
    echo "[  SKIPPED ] bundle with nothing but the C library: needs root for chroot"
fi
exit $failed
