class RocmBackend:
    def pipeline_fragments(self, **options):
        return ["lower-to-rocdl", 'gpu-module-to-binary{format=fatbin opts=""}']


def get_backend():
    return RocmBackend()
