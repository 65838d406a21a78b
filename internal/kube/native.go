package kube

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"slices"

	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"metrics-server-prom/internal/credentials"
)

// The values of Source.Native.
const (
	NativeMissing = "missing" // where the program is not here, or cannot be used as the kubeconfig wants it
	NativeAlways  = "always"
	NativeNever   = "never"
)

// useNative is the way out where it was set that this program answers in place of none.
const useNative = "set --native-credentials (NATIVE_CREDENTIALS) to missing"

// answerNatively has this program answer in place of a plugin of the user that it knows, when that is wanted.
func answerNatively(user *clientcmdapi.AuthInfo, when string) {
	self, err := os.Executable()
	if user == nil || when == NativeNever || err != nil {
		return
	}
	native := clientcmdapi.ExecConfig{Command: self, APIVersion: pluginVersions[0],
		InteractiveMode: clientcmdapi.NeverExecInteractiveMode}
	if e := user.Exec; e != nil && credentials.Known(e.Command, e.Args) && (when == NativeAlways ||
		!slices.Contains(pluginVersions, e.APIVersion) || e.InteractiveMode == clientcmdapi.AlwaysExecInteractiveMode ||
		missing(e.Command)) {
		native.Args, native.Env = append([]string{credentials.Command, e.Command}, e.Args...), e.Env
		user.Exec = &native
	}
	if p := user.AuthProvider; p != nil && credentials.AuthProvider(p.Name) != "" {
		settings, _ := json.Marshal(p.Config) // strings to strings
		native.Args = []string{credentials.Command, credentials.AuthProvider(p.Name)}
		native.Env = []clientcmdapi.ExecEnvVar{{Name: credentials.AuthProviderSettings, Value: string(settings)}}
		user.Exec, user.AuthProvider = &native, nil
	}
}

// missing tells whether a program is not installed here.
func missing(command string) bool {
	_, err := exec.LookPath(command)
	return errors.Is(err, exec.ErrNotFound) || errors.Is(err, fs.ErrNotExist)
}

// nativeName is the name of the plugin in place of which this program answers; "" where e is another program.
func nativeName(e *clientcmdapi.ExecConfig) string {
	if self, err := os.Executable(); err == nil && e.Command == self && len(e.Args) > 1 &&
		e.Args[0] == credentials.Command {
		return e.Args[1]
	}
	return ""
}
