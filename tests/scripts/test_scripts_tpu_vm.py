"""tpu_vm.sh: what it refuses, what it calls, and that gcloud's own parser takes every call."""

import shutil
import subprocess

import pytest
from conftest import HANGS_S
from scripts_stub import Stubs, dry_run, environment, words

from jaxcomp.sweep.plan import topology

TPU = "tpu_vm.sh"
CREATE = ("create", "x", "--type=v5e:4x4", "--spot")
WHERE = ("--project=p", "--zone=us-west4-a")
ODD = ["jaxcomp", "--a=b c", "it's", "$HOME", '"q"', "*", "two\nlines", "", "é", "x;y"]


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (("crate", "x"), ["crate", "create"]),
        (("create",), ["tpu_vm.sh create NAME"]),
        (("create", "My_TPU", "--type=v5e:4x4", "--spot"), ["My_TPU", "lower-case"]),
        (("create", "x", "--spot"), ["--type=''", "--type=v5e:4x4"]),
        (("create", "x", "--spot", "--type=v5e:4x5"), ["v5e:4x5", "4x4 4x8"]),
        (("create", "x", "--spot", "--type=v5p-130"), ["v5p-130", "4x4x4"]),
        (("create", "x", "--spot", "--type=h100:8"), ["h100:8", "v5e, v5p or v6e"]),
        (CREATE[:3], ["--spot", "--on-demand"]),
        ((*CREATE, "--on-demand"), ["--spot--on-demand", "exactly one"]),
        ((*CREATE, "us-west4-a"), ["'us-west4-a' is not a flag"]),
        ((*CREATE, "--", "jaxcomp"), ["'--' is not a flag of create"]),
        (("setup", "x", "--env-file=none"), ["--env-file=none is no file"]),
        (("run", "x"), ["no command", "tpu_vm.sh run x -- jaxcomp"]),
    ],
)
def test_wrong_arguments_are_one_sentence_before_any_call(tmp_path, args, expected):
    done = Stubs(tmp_path, gcloud="", git="").run(TPU, *args)
    assert (done.code, done.out, done.calls) == (2, "", [])
    (line,) = done.err.splitlines()
    assert all(w in line for w in expected), line


def test_every_slice_of_plan_can_be_asked_for(tmp_path):
    stubs = Stubs(tmp_path)
    for kind, shapes in topology.SHAPES.items():
        for shape in shapes if kind != "h100" else ():
            chips = topology.slice_of(f"{kind}:{shape}").chips
            prefix = {"v5e": "v5litepod"}.get(kind, kind)
            own = f"{prefix}-{chips * (2 if kind == 'v5p' else 1)}"
            for name in (f"{kind}:{shape}", own):
                done = stubs.run(TPU, "create", "x", f"--type={name}", "--spot", "--dry-run")
                assert f" --accelerator-type={own} " in done.out


VERBS = {
    "create": (*CREATE, "--service-account=a@b", "--valid-until-duration=6h", "--internal-ips"),
    "create on demand": ("create", "x", "--type=v5p-128", "--on-demand"),
    "state": ("state", "x"),
    "setup": ("setup", "x", "--env-file=my env", "--internal-ip"),
    "run": ("run", "x", "--internal-ip"),
    "logs": ("logs", "x", "--worker=1"),
    "stop": ("stop", "x"),
    "delete": ("delete", "x"),
}


def args_of(verb):
    command = ("--", *ODD) if verb == "run" else ()
    return (*VERBS[verb], *WHERE, *command)


@pytest.mark.parametrize("verb", VERBS)
def test_a_dry_run_calls_nothing_and_prints_what_would_be_called(tmp_path, verb):
    (tmp_path / "my env").write_text("A=1\n")
    stubs = Stubs(tmp_path, gcloud="", git='touch "${5#*=}"', rm='exec /bin/rm "$@"')
    printed = stubs.run(TPU, *dry_run(args_of(verb)))
    assert printed.code == 0
    assert printed.calls == []
    done = stubs.run(TPU, *args_of(verb))
    assert done.code == 0, done.err
    assert [words(row) for row in printed.out.splitlines()] == done.calls


@pytest.mark.parametrize("verb", VERBS)
def test_gcloud_parses_every_call(tmp_path, verb):
    """Without an account gcloud ends with 1 after its parser, and with 2 where that refuses."""
    if not shutil.which("gcloud"):
        pytest.skip("no gcloud here: https://cloud.google.com/sdk/docs/install")
    (tmp_path / "my env").write_text("A=1\n")
    rows = Stubs(tmp_path).run(TPU, *dry_run(args_of(verb))).out.splitlines()
    env = environment() | {"CLOUDSDK_CONFIG": str(tmp_path)}
    for call in (words(row) for row in rows if row.startswith("gcloud")):
        done = subprocess.run(call, capture_output=True, text=True, env=env, timeout=HANGS_S)
        assert "active account" in done.stderr, done.stderr
        assert done.returncode == 1


def test_run_starts_one_detached_unit_with_every_word_as_typed(tmp_path):
    """The stand-in for ssh runs the command line as a worker's shell would."""
    ssh = 'for a; do case $a in --command=*) exec bash -c "${a#*=}";; esac; done'
    (tmp_path / "jaxcomp").mkdir()
    stubs = Stubs(tmp_path, gcloud=ssh, sudo='exec "$@"', systemctl="exit 1", systemd_run="")
    done = stubs.run(TPU, "run", "x", *WHERE, "--", *ODD)
    assert done.code == 0, done.err
    assert "--worker=all" in done.calls[0]
    (unit,) = [c for c in done.calls if c[0] == "systemd-run"]
    cut = unit.index("--")
    # systemd reads $$ as $.
    assert [w.replace("$$", "$") for w in unit[cut + 1 :]] == ["/usr/bin/env", *ODD]
    assert "$$HOME" in unit
    own = {"--unit=jaxcomp", "--property=KillMode=mixed", f"--setenv=HOME={tmp_path}"}
    assert own <= set(unit[:cut])


def test_run_says_what_to_do_if_a_worker_did_not_start(tmp_path):
    done = Stubs(tmp_path, gcloud="exit 1").run(TPU, "run", "x", *WHERE, "--", "jaxcomp")
    assert done.code == 1
    assert "tpu_vm.sh stop x --project=p --zone=us-west4-a" in done.err


def test_setup_ends_where_a_step_fails(tmp_path):
    done = Stubs(tmp_path, gcloud="exit 1", git="").run(TPU, "setup", "x")
    assert done.code == 1
    assert [c[0] for c in done.calls] == ["git", "gcloud"]


@pytest.mark.parametrize("gcloud", ["exit 1", 'kill -TERM "$PPID"; sleep 0.1'])
def test_a_delete_that_fails_or_is_ended_says_what_still_costs_money(tmp_path, gcloud):
    done = Stubs(tmp_path, gcloud=gcloud).run(TPU, "delete", "x", "--zone=z")
    assert done.code != 0
    assert "TPU VM x still costs money" in done.err
    assert "again: tpu_vm.sh delete x --zone=z" in done.err


def test_create_says_what_ends_the_costs(tmp_path):
    done = Stubs(tmp_path, gcloud="").run(TPU, *CREATE)
    assert "until: tpu_vm.sh delete x" in done.err


def test_without_gcloud_it_says_where_to_get_it(tmp_path):
    done = Stubs(tmp_path).run(TPU, "state", "x", PATH=path_of_bash_only(tmp_path))
    assert done.code == 1
    assert "cloud.google.com/sdk" in done.err


def path_of_bash_only(tmp_path):
    for name in ("bash", "dirname"):
        (tmp_path / "bin" / name).symlink_to(shutil.which(name) or "")
    return str(tmp_path / "bin")
