"""Streams as programs written with Python's official client use them: KUBECONFIG and a port that echoes are the arguments."""
import sys

from kubernetes import client, config
from kubernetes.stream import portforward, stream

config.load_kube_config(sys.argv[1])
core, port = client.CoreV1Api(), int(sys.argv[2])
done = 0


def check(what, right):
    global done
    if not right:
        sys.exit(f"python: {what}")
    done += 1


def run(*command, **more):
    return stream(
        core.connect_get_namespaced_pod_exec, "p", "default", command=list(command), container="c",
        stderr=True, stdout=True, stdin=more.pop("stdin", False), tty=more.pop("tty", False), **more
    )


check("output", "hello" in run("echo", "hello"))
shell = run("sh", "-c", "read line; echo got $line; echo bad >&2; exit 5", stdin=True, _preload_content=False)
shell.write_stdin("a line\n")
shell.run_forever(timeout=30)
check("input", shell.read_stdout() == "got a line\n")
check("errors", shell.read_stderr() == "bad\n")
check("exit code", shell.returncode == 5)
size = run("sh", "-c", "read line; stty size", stdin=True, tty=True, _preload_content=False)
size.write_channel(4, '{"Width":101,"Height":33}')
size.write_stdin("go\n")
size.run_forever(timeout=30)
check("size", "33 101" in size.read_all())
try:
    stream(core.connect_get_namespaced_pod_exec, "nobody", "default", command=["true"], stdout=True)
    check("a pod that does not exist", False)
except client.ApiException as error:
    check("a pod that does not exist", "404" in str(error))

forwarded = portforward(core.connect_get_namespaced_pod_portforward, "p", "default", ports=str(port))
connection = forwarded.socket(port)
connection.setblocking(True)
connection.sendall(b"question\n")
heard = b""
while len(heard) < 10:
    piece = connection.recv(64)
    if not piece:
        break
    heard += piece
check("a forwarded port", heard == b">question\n")
check("no error", forwarded.error(port) is None)
connection.close()
print(f"python: {done} streams")
