"""Engine *stock*: the bundle's graphs on the plain onnxruntime package, weights held once for all of them."""

import onnxruntime as ort

from edgepeft.engines.sessions import SessionEngine

_EXTERNAL_FOLDER = "session.model_external_initializers_file_folder_path"


class StockEngine(SessionEngine):
    """Runs a bundle with stock ONNX Runtime. See `edgepeft.engines.base.Engine`."""

    name = "stock"

    def _open(self, graph: str) -> ort.InferenceSession:
        options = self._session_options()
        # ONNX Runtime takes the weights from the verified buffer, in place, and never opens the file that the
        # graph names; it only insists that such a file be there.
        options.add_session_config_entry(_EXTERNAL_FOLDER, str(self._bundle.path.absolute()))
        for name in self._bundle.manifest.graph(graph).weights:
            options.add_initializer(name, self._weights[name])
        return self._session_of(graph, self._bundle.graph(graph), options)
