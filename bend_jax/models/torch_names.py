"""The names of PyTorch's libraries, and what our backbones call the same: patterns and replacements, in order."""

WRAPPERS = [
    (r"(?:(?<=\.)|^)(?:module|_orig_mod|_fsdp_wrapped_module)\.", ""),  # DataParallel, torch.compile, FSDP
    (r"^(model|backbone)\.", ""),
]
# from the names of torchvision, timm and kuangliu's pytorch-cifar to those of our residual nets: kuangliu's with `fc`
RESIDUAL = [
    (r"\.downsample\.conv\.", ".shortcut.0."),  # timm's RegNets
    (r"\.downsample\.bn\.", ".shortcut.1."),
    (r"\.downsample\.", ".shortcut."),
    (r"^(linear|head\.fc|classifier)\.", "fc."),
    (r"^stem\.(conv|0)\.", "conv1."),
    (r"^stem\.(bn|1)\.", "bn1."),
    (r"^s(\d)\.b(\d+)\.", lambda m: f"layer{m[1]}.{int(m[2]) - 1}."),
    (r"\.conv(\d)\.conv\.", r".conv\1."),
    (r"\.conv(\d)\.bn\.", r".bn\1."),
    (r"^trunk_output\.block(\d)\.block\d-(\d+)\.", r"layer\1.\2."),  # torchvision's RegNets
    (r"\.proj\.", ".shortcut."),
    (r"\.f\.se\.", ".se."),
    (r"\.f\.([abc])\.0\.", lambda m: f".conv{'abc'.index(m[1]) + 1}."),
    (r"\.f\.([abc])\.1\.", lambda m: f".bn{'abc'.index(m[1]) + 1}."),
    (r"\.se\.fc([12])\.", r".se.se\1."),
    (r"^block(\d)\.layer\.(\d+)\.", r"layer\1.\2."),  # the usual Wide ResNet in PyTorch
    (r"\.convShortcut\.", ".shortcut."),
]
# from torchvision's names to timm's, which are ours
VIT = [
    (r"^class_token$", "cls_token"),
    (r"^encoder\.pos_embedding$", "pos_embed"),
    (r"^conv_proj\.", "patch_embed.proj."),
    (r"^encoder\.layers\.encoder_layer_(\d+)\.", r"blocks.\1."),
    (r"^encoder\.ln\.", "norm."),
    (r"\.ln_([12])\.", r".norm\1."),
    (r"\.self_attention\.in_proj_", ".attn.qkv."),
    (r"\.self_attention\.out_proj\.", ".attn.proj."),
    (r"\.mlp\.(?:0|linear_1)\.", ".mlp.fc1."),
    (r"\.mlp\.(?:3|linear_2)\.", ".mlp.fc2."),
    (r"^heads\.head\.", "head."),
]
CONVNEXT = [
    (r"^features\.0\.(\d)\.", r"stem.\1."),
    (r"^features\.([246])\.(\d)\.", lambda m: f"stages.{int(m[1]) // 2}.downsample.{m[2]}."),
    (r"^features\.([1357])\.(\d+)\.", lambda m: f"stages.{int(m[1]) // 2}.blocks.{m[2]}."),
    (r"\.layer_scale$", ".gamma"),
    (r"\.block\.0\.", ".conv_dw."),
    (r"\.block\.2\.", ".norm."),
    (r"\.block\.3\.", ".mlp.fc1."),
    (r"\.block\.5\.", ".mlp.fc2."),
    (r"^classifier\.0\.", "head.norm."),
    (r"^classifier\.2\.", "head.fc."),
]
EFFICIENTNET = [
    (r"^features\.0\.0\.", "conv_stem."),
    (r"^features\.0\.1\.", "bn1."),
    (r"^features\.8\.0\.", "conv_head."),
    (r"^features\.8\.1\.", "bn2."),
    (r"^classifier\.1\.", "classifier."),
    (r"\.block\.\d\.fc1\.", ".se.conv_reduce."),
    (r"\.block\.\d\.fc2\.", ".se.conv_expand."),
    (r"^features\.1\.(\d)\.block\.0\.0\.", r"blocks.0.\1.conv_dw."),  # without expansion
    (r"^features\.1\.(\d)\.block\.2\.0\.", r"blocks.0.\1.conv_pw."),
    (r"^features\.1\.(\d)\.block\.0\.1\.", r"blocks.0.\1.bn1."),
    (r"^features\.1\.(\d)\.block\.2\.1\.", r"blocks.0.\1.bn2."),
    (r"^features\.(\d)\.", lambda m: f"blocks.{int(m[1]) - 1}."),
    (r"\.block\.0\.0\.", ".conv_pw."),
    (r"\.block\.1\.0\.", ".conv_dw."),
    (r"\.block\.3\.0\.", ".conv_pwl."),
    (r"\.block\.([01])\.1\.", lambda m: f".bn{int(m[1]) + 1}."),
    (r"\.block\.3\.1\.", ".bn3."),
]
RENAMES = {  # by a name that only such a backbone has
    "params.cls_token": VIT,
    "params.stem.0.kernel": CONVNEXT,
    "params.conv_stem.kernel": EFFICIENTNET,
    "params.conv1.kernel": RESIDUAL,
}
