#!/usr/bin/env bash
# build.sh DIRECTORY: makes DIRECTORY/{vmlinuz,initrd} for the guest, from Debian packages only.
#
# The directory appears complete or not at all, so that two runs at once don't disturb each other. What is needed: a
# network for apt the first time, and qemu-system-x86, busybox-static, dmsetup, thin-provisioning-tools, kmod, cpio,
# gcc and libc6-dev, which are installed when they are missing and we may.
set -euo pipefail
target=$1
here=$(cd "$(dirname "$0")" && pwd)
declare -A package=([qemu-system-x86_64]=qemu-system-x86 [busybox]=busybox-static [dmsetup]=dmsetup [modprobe]=kmod
  [thin_dump]=thin-provisioning-tools [cpio]=cpio [gcc]=gcc [dpkg-deb]=dpkg [mkfs.ext4]=e2fsprogs [nbd-client]=nbd-client)
export PATH=$PATH:/usr/sbin:/sbin
missing=()
for program in "${!package[@]}"; do command -v "$program" >/dev/null || missing+=("${package[$program]}"); done
[[ -f /usr/include/stdio.h ]] || missing+=(libc6-dev)
if ((${#missing[@]})); then
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
fi

[[ -f $target/initrd ]] && exit 0

mkdir -p "$(dirname "$target")"
work=$(mktemp -d "$target.XXXXXX")
trap 'rm -rf "$work"' EXIT
cd "$work"
mkdir deb cloud result

# A kernel with everything but device drivers for real hardware; the metapackage names the present version.
image=$(apt-cache depends linux-image-cloud-amd64 2>/dev/null | sed -n 's/.*Depends: \(linux-image-[^ ]*\).*/\1/p' | head -n 1)
if [[ ! $image ]]; then
  apt-get update -qq
  image=$(apt-cache depends linux-image-cloud-amd64 | sed -n 's/.*Depends: \(linux-image-[^ ]*\).*/\1/p' | head -n 1)
fi
(cd deb && { apt-get download -qq "$image" || { apt-get update -qq && apt-get download -qq "$image"; }; } >/dev/null 2>&1)
dpkg-deb -x deb/*.deb cloud
version=$(ls cloud/lib/modules)
cp "cloud/boot/vmlinuz-$version" result/vmlinuz
depmod -b cloud "$version"

root=$work/root
mkdir -p "$root"/{bin,dev,proc,sys,tmp,run,work,mnt,etc}
cp "$(command -v busybox)" "$root/bin/busybox"
for applet in $(busybox --list); do [[ -e $root/bin/$applet ]] || ln -s busybox "$root/bin/$applet"; done
gcc -O2 -static -o "$root/bin/pool-exec" "$here/pool-exec.c"

# A program, and the libraries it is linked with.
for program in dmsetup mkfs.ext4 e2fsck nbd-client; do
  path=$(readlink -f "$(command -v "$program")")
  rm -f "$root/bin/$program"
  cp "$path" "$root/bin/$program"
  ldd "$path" | grep -o '/[^ )]*' | while read -r library; do
    mkdir -p "$root$(dirname "$library")"
    cp -nL "$library" "$root$library"
  done
done

# Modules and what they depend on, in the order in which they load. Those after "--" are there but not loaded.
load=(virtio_pci virtio_blk crc32c_generic dm-mod dm-thin-pool --
  loop fuse dm-snapshot dm-flakey dm-zero dm-delay dm-log-writes dm-mirror ext4 nbd)
loading=1
for module in "${load[@]}"; do
  if [[ $module == -- ]]; then loading=0; continue; fi
  { modprobe -d cloud -S "$version" --show-depends "$module" 2>/dev/null || true; } | sed -n 's/^insmod \([^ ]*\).*/\1/p' | while read -r file; do
    relative=${file#"${file%%/lib/modules/*}"}
    mkdir -p "$root$(dirname "$relative")"
    cp -n "$file" "$root$relative"
    if ((loading)) && ! grep -qxF "$relative" "$root/etc/modules" 2>/dev/null; then echo "$relative" >> "$root/etc/modules"; fi
  done
done
cp "cloud/lib/modules/$version"/modules.{builtin,builtin.modinfo,order} "$root/lib/modules/$version/"
depmod -b "$root" "$version"
cp "$here/init" "$root/init"
chmod +x "$root/init"
(cd "$root" && find . | cpio -o -H newc --quiet > "$work/result/initrd")

# Somebody else may have been faster; theirs is as good.
mv -T "$work/result" "$target" 2>/dev/null || [[ -f $target/initrd ]]
