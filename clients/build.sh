#!/usr/bin/env bash
# Build the example clients: npm packages for Node's two, a CMake build for C++. On Debian, as root, install what is missing.
set -euo pipefail
cd "$(dirname "$0")"

missing=()
need() { # need COMMAND-OR-FILE PACKAGE…
  command -v "$1" > /dev/null || [ -e "$1" ] || missing+=("${@:2}")
}
need npm nodejs npm
need curl curl
need cmake cmake
need g++ g++
need protoc protobuf-compiler
need grpc_cpp_plugin protobuf-compiler-grpc
need /usr/include/google/protobuf/message.h libprotobuf-dev
need /usr/include/grpcpp/grpcpp.h libgrpc++-dev

if [ ${#missing[@]} -gt 0 ]; then
  if [ "$(id -u)" != 0 ] || ! command -v apt-get > /dev/null; then
    echo "clients: missing, as Debian calls them: ${missing[*]}" >&2
    exit 1
  fi
  echo "clients: installing ${missing[*]}"
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" > /dev/null
fi

echo "clients: fetching the packages of the Node clients"
for folder in node ai-sdk; do
  (cd "$folder" && npm ci --no-audit --no-fund --loglevel=error)
done
echo "clients: building the C++ client (about a minute the first time)"
cmake -S cpp -B cpp/build -DCMAKE_BUILD_TYPE=Release > /dev/null
cmake --build cpp/build --parallel > /dev/null
